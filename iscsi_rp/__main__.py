"""`python -m iscsi_rp` is the `iscsi-rp` command."""

from iscsi_rp.cli.main import main

if __name__ == "__main__":
    main()
