import torch

from small4.checkpoint.stored import FP8, Dense, Fp8, Nvfp4


def test_dense_is_not_copied_when_the_type_is_right():
    tensor = torch.randn(3, 4)
    assert Dense(tensor).to_dense() is tensor
    assert Dense(tensor).to_dense(torch.float32) is tensor


def test_fp8_multiplies_code_by_scale_in_the_type_asked_for():
    codes = torch.randn(4, 6).to(FP8)
    scale = torch.tensor(0.37, dtype=torch.bfloat16)
    stored = Fp8(codes, scale)
    assert torch.equal(stored.to_dense(), codes.to(torch.bfloat16) * scale)
    assert torch.equal(stored.to_dense(torch.float32), codes.float() * scale.float())


def test_each_fp8_scale_covers_its_own_matrix():
    codes = torch.randn(3, 4, 5).to(FP8)
    scale = torch.rand(3, 2, 1)
    dense = Fp8(codes, scale).to_dense(torch.float32)
    for expert in range(3):
        assert torch.equal(dense[expert, :2], codes[expert, :2].float() * scale[expert, 0])
        assert torch.equal(dense[expert, 2:], codes[expert, 2:].float() * scale[expert, 1])


def test_nvfp4_low_nibble_is_the_even_column():
    packed = torch.zeros(1, 8, dtype=torch.uint8)
    packed[0, 0] = 0x2 | (0xF << 4)  # 1.0 then -6.0
    scale = torch.tensor([[2.0]]).to(FP8)
    stored = Nvfp4(packed, scale, torch.tensor(4.0))
    assert stored.shape == (1, 16)
    assert stored.to_dense(torch.float32)[0, :3].tolist() == [0.5, -3.0, 0.0]


def test_nvfp4_divides_by_each_matrix_own_global_scale():
    packed = torch.full((2, 4, 8), 0x22, dtype=torch.uint8)
    scale = torch.ones(2, 4, 1).to(FP8)
    dense = Nvfp4(packed, scale, torch.tensor([[1.0, 2.0], [4.0, 8.0]])[:, :, None]).to_dense(torch.float32)
    assert dense[:, ::2, 0].tolist() == [[1.0, 0.5], [0.25, 0.125]]
