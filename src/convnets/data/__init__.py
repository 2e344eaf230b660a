"""Pictures and digits on their way from wherever they are to arrays with labels."""
