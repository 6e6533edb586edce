"""How good generated images are: FID, KID, precision and recall, IS, PPL.

`metrics.metric_main.calc_metric` computes one of `metrics.names.METRIC_NAMES`. Names and
definitions are those of StyleGAN2-ADA. Importing this package loads no torch.
"""
