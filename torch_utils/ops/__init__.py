"""Face: the ops under the names that code written for StyleGAN2-ADA imports. They live in `ops`."""
