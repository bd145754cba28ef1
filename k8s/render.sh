#!/bin/sh
# Makes what is rendered in k8s/ again: from the project's root, after a change of a config or of the settings.
set -eu
rayrlhf k8s render --volume --settings k8s/settings.toml --to k8s/base/volume
rayrlhf k8s render examples/ppo_gpus.toml --settings k8s/settings.toml --to k8s/base/rl
rayrlhf k8s render examples/sft.toml learner.ranks=4 learner.gpus=1 run.batch_rows=64 --settings k8s/settings.toml --to k8s/base/sft
rayrlhf k8s render examples/reward.toml learner.ranks=4 learner.gpus=1 run.batch_rows=64 --settings k8s/settings.toml --to k8s/base/reward
rayrlhf k8s render examples/ppo_gpus.toml --kind policy-service --settings k8s/settings.toml --to k8s/base/policy-service
rayrlhf k8s render examples/reward.toml --kind reward-service --settings k8s/settings.toml --to k8s/base/reward-service
rayrlhf k8s render examples/cycle.toml sft.learner.gpus=1 reward.learner.gpus=1 rl.learner.gpus=1 rl.critic.gpus=1 rl.rollout.gpus=1 rl.reward.gpus=0.5 rl.reference.gpus=0.5 --settings k8s/settings.toml --to k8s/base/cycle
rayrlhf k8s render examples/cycle.toml sft.learner.gpus=1 reward.learner.gpus=1 rl.learner.gpus=1 rl.critic.gpus=1 rl.rollout.gpus=1 rl.reward.gpus=0.5 rl.reference.gpus=0.5 --settings k8s/settings.toml --set cycle.timer=RayCronJob --to k8s/overlays/raycronjob
rayrlhf k8s render examples/ppo_gpus.toml --settings k8s/settings.toml --set hosts_per_replica=2 --set gpus_per_node=4 --to k8s/overlays/multi-host
rayrlhf k8s render examples/ppo.toml --settings k8s/settings-cpu.toml --to k8s/base/rl-cpu
