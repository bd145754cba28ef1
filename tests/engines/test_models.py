import shutil

import pytest
import torch
from safetensors.torch import save_file

from rayrlhf.config.sections import ModelConfig
from rayrlhf.data.durable import write_digests
from rayrlhf.data.model_files import model_digest
from rayrlhf.engines.models import (
    Normalisation,
    load_policy,
    load_scalar,
    load_tokenizer,
    require_length,
    require_reward_head,
    require_same_vocabulary,
    values_before_tokens,
)
from rayrlhf.errors import ModelError
from rayrlhf.rewards.model import score_rows
from tests import tiny


def test_logprobs_of_a_row_do_not_depend_on_its_padding_or_company(tiny_policy):
    policy = load_policy(ModelConfig(path=str(tiny_policy)))
    short, long = torch.randint(4, 100, (1, 9)), torch.randint(4, 100, (1, 20))
    mask = torch.zeros(1, 9)
    mask[:, 4:] = 1
    with torch.no_grad():
        alone, _ = policy(short, mask)
        both = torch.nn.functional.pad(short, (0, 11), value=77)
        batch, _ = policy(torch.cat([long, both]), torch.nn.functional.pad(mask, (0, 11)).repeat(2, 1))
    torch.testing.assert_close(batch[1, :9], alone[0], atol=1e-5, rtol=0)
    assert batch[1, 9:].abs().sum() == 0


def test_logprobs_equal_those_of_plain_transformers(tiny_policy):
    policy = load_policy(ModelConfig(path=str(tiny_policy)))
    ids = torch.randint(4, 100, (3, 12))
    with torch.no_grad():
        own, _ = policy(ids, torch.ones(3, 12))
        logits = policy.model(input_ids=ids).logits
    plain = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(own[:, 1:], plain, atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_no_gradient(tiny_policy):
    ids = torch.randint(4, 100, (2, 12))
    gradients = []
    for checkpointing in (False, True):
        policy = load_policy(ModelConfig(path=str(tiny_policy), gradient_checkpointing=checkpointing)).train()
        policy(ids, torch.ones(2, 12))[0].sum().backward()
        gradients.append(policy.model.model.embed_tokens.weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_new_head_is_normal_or_zero_and_a_missing_one_is_refused(tiny_policy):
    config = ModelConfig(path=str(tiny_policy))
    weight = load_scalar(config, str(tiny_policy), head="normal").model.score.weight
    assert float(weight.detach().std()) == pytest.approx((1 / 65**0.5), rel=0.3)
    assert load_scalar(config, str(tiny_policy), head="zero").model.score.weight.abs().sum() == 0
    with pytest.raises(ModelError, match="no trained reward head"):
        load_scalar(config, str(tiny_policy))
    with pytest.raises(ModelError, match="no reward head among its tensors"):
        require_reward_head(str(tiny_policy), "reward.model")


def test_scores_are_read_at_the_last_token_and_normalised_once(tiny_reward_model, tmp_path):
    module = load_scalar(ModelConfig(path=str(tiny_reward_model)), str(tiny_reward_model)).eval()
    rows = [tuple(range(5, 5 + n)) for n in (7, 3, 12)]
    scores = score_rows(module, rows, 64, torch.device("cpu"))
    with torch.no_grad():
        raw = [float(module.model(input_ids=torch.tensor([row])).logits) for row in rows]
    torch.testing.assert_close(scores, torch.tensor(raw), atol=1e-5, rtol=0)
    module.normalisation = Normalisation(0.5, 2.0)
    torch.testing.assert_close(score_rows(module, rows, 64, torch.device("cpu")), (scores - 0.5) / 2)


def test_values_are_those_of_the_state_before_each_token():
    scalars, mask = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[0.0, 1, 1, 0]])
    assert values_before_tokens(scalars, mask).tolist() == [[0, 1, 2, 0]]


def test_a_tokenizer_without_a_template_is_refused(tmp_path):
    tiny.tokenizer(template=None).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(str(tmp_path))


def test_a_directory_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no safetensors weights"):
        load_policy(ModelConfig(path=str(tmp_path)))
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="cannot be loaded as a model"):
        load_policy(ModelConfig(path=str(tmp_path)))


def test_a_model_that_was_changed_after_its_export_is_not_loaded(tiny_policy, tmp_path):
    folder = shutil.copytree(tiny_policy, tmp_path / "policy")
    write_digests(folder)
    digest = model_digest(folder)
    load_policy(ModelConfig(path=str(folder), digest=digest))
    with pytest.raises(ModelError, match=r"model\.digest wants"):
        load_policy(ModelConfig(path=str(folder), digest="0" * 64))
    tiny.poison(folder)
    for load in (load_policy, lambda config: load_scalar(config, config.path, head="zero")):
        with pytest.raises(ModelError, match=r"model\.safetensors: not what was exported"):
            load(ModelConfig(path=str(folder)))
    with pytest.raises(ModelError, match=r"model\.safetensors: not what was exported"):
        require_reward_head(str(folder), "reward.model")


def test_the_entropy_and_every_input_embedding_have_a_gradient(tiny_policy):
    """Hugging Face would freeze the input embedding of the pad token, which is the eos of many models."""
    module = load_policy(ModelConfig(path=str(tiny_policy)))
    ids, mask = torch.tensor([[0, 2, 7, 9, 2, 5]]), torch.tensor([[0.0, 0, 1, 1, 1, 1]])
    logprobs, entropy = module(ids, mask)
    hidden = module.model.get_input_embeddings()(ids)
    assert hidden.requires_grad
    assert module.model.get_input_embeddings().padding_idx is None
    (by_entropy,) = torch.autograd.grad(entropy.sum(), module.model.model.norm.weight, retain_graph=True)
    (by_logprob,) = torch.autograd.grad(logprobs.sum(), module.model.model.norm.weight)
    assert by_entropy.abs().sum() > 0
    assert not torch.allclose(by_entropy, by_logprob)


def test_another_vocabulary_is_refused(tiny_policy, tmp_path):
    other = tiny.tokenizer()
    require_same_vocabulary(other, str(tiny_policy), "critic.model")
    other.add_tokens(["new"])
    other.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"its vocabulary is not the policy.*critic\.model"):
        require_same_vocabulary(tiny.tokenizer(), str(tmp_path), "critic.model")


def test_sequences_longer_than_the_positions_are_refused(tiny_policy):
    require_length(str(tiny_policy), 512)
    with pytest.raises(ModelError, match="= 513, but the model has 512 positions"):
        require_length(str(tiny_policy), 513)
