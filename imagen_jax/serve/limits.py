"""What the page gives anyone who can reach it, at most. No JAX here."""

import dataclasses

ASPECTS = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")
"""Width by height; each other size is compiled anew, so there are few."""
STEPS = (4, 8, 16, 32, 64, 128, 256)
"""Numbers of steps beside a stage's own, each compiled anew too."""
STRENGTHS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 11))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one visitor may ask for, and what is kept."""

    max_images: int = 4
    """Pictures of one request."""
    max_letters: int = 1000
    """Letters of a prompt; a text encoder reads fewer."""
    max_waiting: int = 8
    """Requests that wait for the one that is painted; more are sent away."""
    max_kept: int = 30
    """Requests whose pictures are kept for download; the oldest go first."""
    max_megapixels: int = 16
    """Of a picture to edit."""
    max_upload_mb: int = 16
    """Of one request, picture and mask included."""
