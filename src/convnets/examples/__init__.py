"""Arrays with labels, as trainings and scores read them."""
