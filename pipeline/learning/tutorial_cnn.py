"""The network of the PyTorch tutorial "Training a Classifier" (pytorch.org/tutorials, cifar10_tutorial)."""

import torch
from torch import Tensor, nn


class TutorialCNN(nn.Module):
    """Two convolutions with pooling and three linear layers; 62,006 parameters for ten classes at 32 pixels."""

    def __init__(self, num_classes: int, img_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * (((img_size - 4) // 2 - 4) // 2) ** 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, classes] of normalised images [batch, 3, img_size, img_size]."""
        x = self.pool(torch.relu(self.conv1(images)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.head(torch.relu(self.fc2(x)))

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head
