"""Drawing cartoon cats and dogs: animals, scenes, light, from a seed."""
