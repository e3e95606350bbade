"""What somebody does in a notebook: paint, change the guidance, paint again.

python examples/notebook_user.py
"""

import time

import imagen_jax

cascade = imagen_jax.load_cascade()
prompts = ["a red apple", "a cat face"]
for guidance_scale in (3.0, 5.0):
    start = time.perf_counter()
    pictures = cascade(prompts, seed=0, guidance_scale=[guidance_scale, 1.0, 1.0])
    seconds = time.perf_counter() - start
    pictures.save(f"out/guidance_{guidance_scale:g}")
    print(f"guidance {guidance_scale:g}: {len(pictures.images)} pictures in {seconds:.1f} s")
