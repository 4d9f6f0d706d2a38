"""Protenix's attention as it is called here is the attention that its layer computes."""

import pytest
import torch

from flashbias_fold.protenix_adapter import environment, peers


@pytest.mark.parametrize("masked", [0, 4])
def test_the_plain_path_is_what_stock_protenix_computes(masked):
    environment.prepare()
    from protenix.model.triangular.layers import Attention

    torch.manual_seed(0)
    layer = Attention(16, 16, 16, 8, 2)
    torch.nn.init.normal_(layer.linear_o.weight)  # zero, as it comes
    x, bias = torch.randn(9, 9, 16), torch.randn(1, 2, 9, 9)
    mask = (torch.arange(9) < 9 - masked).expand(9, 9)
    biases = [(1e9 * (mask.float() - 1))[..., :, None, None, :], bias]
    with torch.no_grad():
        expected = layer(x, x, biases, triangle_attention="torch")
        q, k, v = layer._prep_qkv(x, x, apply_scale=False)
        found = peers.torch_attention(q, k, v, [peers.mask_bias(mask, q.dtype), bias])
        torch.testing.assert_close(layer._wrap_up(found.transpose(-2, -3), x), expected)
    assert torch.equal(peers.mask_bias(mask, q.dtype), biases[0])
