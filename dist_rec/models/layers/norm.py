"""LayerNorm that reads and writes the rows' own precision."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` with the same parameters. Rows in fp16 or bf16 stay so, with mean and variance in fp32 inside.

    Autocast on a GPU would make fp32 rows of them, twice as large, which every following layer casts back.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == self.weight.dtype and input.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
            return layer_norm(input, self.normalized_shape, weight, bias, self.eps)
