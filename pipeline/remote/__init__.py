"""The whole job in a kernel of Kaggle, on its GPUs: pushed, followed and fetched from here."""
