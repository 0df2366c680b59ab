"""Clients of the engines that carry jobs: what an App is given as its `engine`."""
