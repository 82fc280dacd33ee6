"""The EAGLE draft head: two cheap layers that guess the token after next from the target's own hidden state.

With h_p the target's hidden state of token p after its final norm, and t the tokens:

    x = eagle_linear [embed(t_{p+1}), h_p]            the embedding first; both tables are the target's
    x = layers(x) at the position of token p           latent attention and a dense SwiGLU, their own cache
    h'_{p+1} = RMSNorm(x)                              guesses h_{p+1}: the target's output turns it into logits of
                                                       t_{p+2}, and it stands in for h in the next draft step

(EAGLE, arXiv 2401.15077; specification 4.4.)
"""

import torch
from torch import Tensor, nn

from small4.model.attention import Attention
from small4.model.config import DraftConfig
from small4.model.layers import RMSNorm
from small4.model.linear import Linear
from small4.model.rope import rope_frequencies
from small4.model.transformer import Block, position_tables


class DraftHead(nn.Module):
    """Hidden states of the next tokens, guessed. Embedding and output are the caller's, who has the target."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        self.eagle_linear: nn.Module = Linear(2 * text.dim, text.dim)
        self.layers = nn.ModuleList(Block(text, layer) for layer in range(text.n_layers))
        self.norm = RMSNorm(text.dim, text.norm_eps)
        self.frequencies_R = rope_frequencies(text)  # not a buffer: it must stay float32 in a bf16 model

    def forward(self, embedding_TD: Tensor, hidden_TD: Tensor, positions_T: Tensor, attention: Attention) -> Tensor:
        """Guessed hidden states [T, D] after the head's own norm.

        Row p takes the embedding of token p + 1 and the hidden state of token p, at the position of token p.
        """
        x_TD = self.eagle_linear(torch.cat([embedding_TD, hidden_TD], dim=-1))
        positions = position_tables(self.config.text, self.frequencies_R, positions_T, x_TD.dtype)
        for block in self.layers:
            x_TD = block(x_TD, positions, attention)
        normed_TD: Tensor = self.norm(x_TD)
        return normed_TD
