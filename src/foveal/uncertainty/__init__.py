"""How sure a prediction is, from the probabilities of one or many passes."""
