"""From a trained network to the prediction of a whole volume on its original grid."""
