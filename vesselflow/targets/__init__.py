"""Training targets that are rendered from keypoints, batch by batch, after augmentation."""
