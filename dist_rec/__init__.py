"""dist_rec: training long-sequence recommenders on TorchRec. Importing the package does nothing."""
