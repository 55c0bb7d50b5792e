"""Pictures in: sources, manifest, audit, transforms."""
