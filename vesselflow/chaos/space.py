"""The space that is disturbed when none is named: half a minute of work in four runs."""

from __future__ import annotations

#: Augmentation, dropout, EMA and the scores of all epochs: whatever a resumed run could get wrong.
SPACE = """\
name: chaos
question: Does the sweep survive?
stores:
  a: synth:fundus?domain=a&sources=6&seed=0&size_px=96
  b: synth:fundus?domain=b&sources=2&seed=1&size_px=96
data: {train: a, ood: [b], working_size_px: 96}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
seeds: [0, 1]
augment: {hflip: {}, affine: {}, color_jitter: {}}
model: {name: wnet, dropout: 0.1}
schedule: {name: cosine}
train:
  epochs: 3
  steps_per_epoch: 10
  micro_batch_size: 2
  micro_batches_per_step: 2
  ema: 0.9
  checkpoint_every_s: 0.3
score: {epochs: all}
grid: {loss.beta: [0.25, 0.75]}
"""
