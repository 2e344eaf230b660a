"""From files to pixels: decoding, duplicates, arrays."""
