"""`mal eval`: does it align? Pairs of texts are judged in both orders, and the rates told with what explains them."""
