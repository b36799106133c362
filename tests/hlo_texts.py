"""Programs as the TPU compiler prints them, cut down to what is read."""

import pathlib

# A loop of four layers: weights are gathered, one at once and one while a
# product runs; what is kept is stacked; a sum is scattered.
LAYERS = (
  pathlib.Path(__file__)
  .with_name("compilation")
  .joinpath("layers.hlo")
  .read_text()
)

# A grid of ten turns around a loop of three; the other bundles run once. An
# empty bundle bears no mark of the loops that it lies in, nor does the branch
# back, before the last bundles of a loop.
SCHEDULE = """
= control target key start
LB: loop body
= control target key end

     0   :  { %s1 = sld [smem:[#allocation0]] }
   0x1   :  {}
   0x2 LB: > { %v1 = vld [vmem:%s1] }
   0x3   :  {}
   0x4 LB: > > { %v2 = vmul.f32 %v1, %v1 }
   0x5   : > > { %p1 = scmp.ge.s32.totalorder %s2, 3 /* loop exit test */ }
   0x6   : > { %p2 = scmp.ge.s32.totalorder %s3, 10 /* loop exit test */ }
   0x7   :  { %9 = sbr.rel (!%p2) target = $region2 }
   0x8   : > { %s4 = sadd.s32 1, %s3 }
   0x9   :  { vst [vmem:%s1] %v2 }
"""
SCHEDULE_BUNDLES = 3 + 10 * (5 + 3 * 2)
