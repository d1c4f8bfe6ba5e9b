"""Entry point: `python run.py --help`."""

import sys
from pathlib import Path

# `python -P` and `python -I` leave the script's folder out of the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

if __name__ == "__main__":
    try:
        from pipeline.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: the package {error.name} is not installed; python -m pip install -r requirements.txt")
    except KeyboardInterrupt:
        sys.exit(130)
    main()
