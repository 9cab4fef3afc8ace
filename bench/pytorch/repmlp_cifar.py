"""The CIFAR-10 networks of arXiv 2105.01883, section 4.1, with the key layout of src/models/repmlp-cifar.ts."""
import torch.nn.functional as F
from torch import nn

from repmlp_resnet import RepMLP, conv_bn

# Name: channels, and what mixes positions.
NETWORKS = {
    "RepMLP-CIFAR10-pure-MLP": ((16, 32, 64), "repmlp"),
    "RepMLP-CIFAR10-wide-convnet": ((32, 64, 128), "conv3"),
}


class Stage(nn.Module):
    def __init__(self, mixer, c_in, c_out):
        super().__init__()
        self.rep1, self.fc1 = mixer(), conv_bn(c_in, c_in, 1)
        self.rep2, self.fc2 = mixer(), conv_bn(c_in, c_out, 1)

    def forward(self, x):
        for layer in (self.rep1, self.fc1, self.rep2, self.fc2):
            x = F.relu(layer(x))
        return x


class RepMLPCifar(nn.Module):
    def __init__(self, name, classes=10, kernels=(1, 3, 5, 7), groups=2, partition=(8, 8), size=32, channels=None):
        super().__init__()
        usual, kind = NETWORKS[name]
        channels = channels or usual
        self.fc0 = conv_bn(3, channels[0], 1)
        for i, c in enumerate(channels):
            side = size // 2**i

            def mixer(c=c, side=side):
                if kind == "conv3":
                    return conv_bn(c, c, 3, 1, 1)
                return RepMLP(c, c, (side, side), partition, kernels, groups)

            self.add_module(f"stage{i + 1}", Stage(mixer, c, channels[min(i + 1, 2)]))
        self.linear = nn.Linear(channels[2], classes)

    def forward(self, x):
        x = F.max_pool2d(self.stage1(F.relu(self.fc0(x))), 2)
        x = F.max_pool2d(self.stage2(x), 2)
        return self.linear(self.stage3(x).mean((2, 3)))
