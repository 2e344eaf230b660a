"""What out-of-fold answers and features say of the pictures, their labels and their number."""
