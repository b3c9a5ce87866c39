"""Evaluate: `python eval.py ckpt=RUN/best.ckpt`, or `ckpt=model.onnx data=...`; `data.root=DIR`: other data."""

from centernet.app import eval_main

if __name__ == "__main__":
    eval_main()
