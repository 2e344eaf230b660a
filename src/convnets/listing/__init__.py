"""Which files are pictures, which of them are used, and for what."""
