"""Train: `python train.py` (built-in data), `python train.py data=coco data.root=DIR`, `python train.py --help`."""

from centernet.app import train_main

if __name__ == "__main__":
    train_main()
