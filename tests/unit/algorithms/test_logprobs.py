import pytest
import torch

from rayrlhf.algorithms.logprobs import chunked_logprobs, logprobs_and_entropy


def test_logprob_and_entropy_with_temperature():
    logits, token = torch.tensor([[2.0, 1.0, 0.0, -1.0]]), torch.tensor([1])
    for temperature, logprob, entropy in [(1.0, -1.44019, 0.947537), (0.7, -1.699245, 0.702028)]:
        actual = logprobs_and_entropy(logits, token, temperature)
        assert float(actual[0]) == pytest.approx(logprob, abs=1e-5)
        assert float(actual[1]) == pytest.approx(entropy, abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_change_neither_values_nor_gradients(chunk):
    torch.manual_seed(0)
    head, hidden, targets = torch.nn.Linear(8, 50, bias=False), torch.randn(10, 8), torch.randint(0, 50, (10,))
    wanted, _ = logprobs_and_entropy(head(hidden), targets)
    wanted.sum().backward()
    expected, head.weight.grad = head.weight.grad, None
    actual, _ = chunked_logprobs(head, hidden, targets, chunk=chunk)
    actual.sum().backward()
    torch.testing.assert_close(actual, wanted)
    torch.testing.assert_close(head.weight.grad, expected)
