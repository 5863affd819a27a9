"""pykan's example: five peaks, learnt one after the other without forgetting those before."""

import torch

from kan_fast.pykan import KAN

torch.set_default_dtype(torch.float64)

x = torch.linspace(-1, 1, 500)[:, None]
y = sum(torch.exp(-((x - center) ** 2) * 300) for center in torch.linspace(-0.8, 0.8, 5))

model = KAN(width=[1, 1], grid=200, k=3, noise_scale=0, sp_trainable=False, sb_trainable=False, base_fun="zero")
for phase in range(5):
    part = slice(100 * phase, 100 * (phase + 1))
    dataset = {"train_input": x[part], "train_label": y[part], "test_input": x[part], "test_label": y[part]}
    model.fit(dataset, opt="LBFGS", steps=50, update_grid=False)
with torch.no_grad():
    rmse = (model(x) - y).square().mean().sqrt().item()
print("error over all five peaks:", rmse)
