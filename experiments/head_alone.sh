# Settings that several scripts share. All are as recorded in LOG.md, when the default recipe started from two layers.
former_start=(model.layers=2 model.embedding_dim=256 discriminant.shrinkage=0.1)

# 100 steps of the head alone, on crops of 1.5 to 2 s of the frozen encoder's output.
head_alone=(
  "${former_start[@]}" loss.supervised_contrastive_weight=1.0
  train.steps=100 train.crop_s=1.5 train.last_crop_s=2.0 model.window_s=2.0 train.start_weight=0.0 train.validation_speakers=0.0
  train.encoder_learning_rate=0.0 train.head_learning_rate=0.001 loss.angular_margin_warmup_steps=50
  discriminant.crop_s=2.0 discriminant.views=0 "sampling.speeds=[1.0]"
)
