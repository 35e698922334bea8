"""PPO on a cart that must stay in the middle: rollouts without gradients, advantages, clipped updates in batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

STEPS, EPOCHS, MINIBATCH, UPDATES = 32, 2, 16, 2
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2


class Cart:
    """A point pushed left or right; it is reset when it is far out."""

    def __init__(self) -> None:
        self.state = torch.zeros(2)

    def step(self, action: int) -> tuple[Tensor, float, bool]:
        position, speed = self.state.tolist()
        speed += 0.2 if action == 1 else -0.2
        position += 0.5 * speed
        done = abs(position) > 1.5
        self.state = torch.zeros(2) if done else torch.tensor([position, speed])
        return self.state, 1.0 - abs(position), done


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.actor, self.critic = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(state)
        return self.actor(features), self.critic(features).squeeze(-1)


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(3)
    agent, cart = Agent(), Cart()
    policy = torch.compile(agent, backend=backend)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3, eps=1e-5)
    state, returns, losses, actions_taken = cart.state, [], [], []
    for _ in range(UPDATES):
        states, actions = torch.zeros(STEPS, 2), torch.zeros(STEPS, dtype=torch.long)
        log_probs, rewards, dones, values = (
            torch.zeros(STEPS),
            torch.zeros(STEPS),
            torch.zeros(STEPS),
            torch.zeros(STEPS),
        )
        for t in range(STEPS):
            with torch.no_grad():
                logits, value = policy(state[None])
                distribution = Categorical(logits=logits)
                action = distribution.sample()
                log_probs[t] = distribution.log_prob(action)
            states[t], actions[t], values[t] = state, action, value
            state, reward, done = cart.step(int(action.item()))
            rewards[t], dones[t] = reward, float(done)
        actions_taken.append(actions.tolist())
        with torch.no_grad():
            _, following = policy(state[None])
            advantages, last = torch.zeros(STEPS), torch.zeros(())
            for t in reversed(range(STEPS)):
                bootstrap = following[0] if t == STEPS - 1 else values[t + 1]
                delta = rewards[t] + GAMMA * bootstrap * (1 - dones[t]) - values[t]
                advantages[t] = last = delta + GAMMA * LAMBDA * (1 - dones[t]) * last
        targets = advantages + values
        returns.append(rewards.sum().item())
        for _ in range(EPOCHS):
            for index in torch.randperm(STEPS).split(MINIBATCH):
                logits, value = policy(states[index])
                distribution = Categorical(logits=logits)
                ratio = (distribution.log_prob(actions[index]) - log_probs[index]).exp()
                advantage = advantages[index]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
                loss = -torch.min(advantage * ratio, advantage * clipped).mean()
                loss = loss + 0.5 * (value - targets[index]).square().mean() - 0.01 * distribution.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
                losses.append(loss.item())
    return {"returns": returns, "losses": losses, "actions": actions_taken, "weights": agent.state_dict()}
