"""Numbers as people read them."""


def bytes_text(num_bytes: float) -> str:
    """123456789 -> '123.5 MB'; powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def count_text(number: int) -> str:
    """119401298944 -> '119,401,298,944'."""
    return f"{number:,}"


def duration_text(seconds: float) -> str:
    """3725 -> '1:02:05'; 65 -> '1:05'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
