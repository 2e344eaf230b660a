"""Where pictures come from: folders, archives, addresses, and how they are laid out."""
