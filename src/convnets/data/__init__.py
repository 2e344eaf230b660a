"""Images and digits, from their sources to arrays with labels."""
