"""Networks: the baseline CNN, backbones and their weights, the cut, freezing."""
