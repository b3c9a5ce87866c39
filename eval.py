"""Evaluate: `python eval.py ckpt=RUN/best.ckpt`, with `data.root=DIR` on other data of the same classes."""

from centernet.app import eval_main

if __name__ == "__main__":
    eval_main()
