"""`python -m services.payment` runs payment as a process of its own."""

from services.payment.service import build
from services.payment.settings import Settings
from weft import run

if __name__ == "__main__":
    run(lambda: [build(Settings())])
