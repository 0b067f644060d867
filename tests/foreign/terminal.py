"""A terminal that gets narrower: runs a command in one, and hands on what the command writes to it.

Once the command has drawn a bar, the terminal has fewer columns, and the line "<<narrower>>" says where that was.

    terminal.py COLUMNS FEWER COMMAND...
"""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios


def resize(terminal: int, columns: int) -> None:
    """Gives a terminal 30 rows of a width."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))


def main() -> int:
    """Runs the command to its end, and ends as it does."""
    columns, fewer, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    terminal, inside = pty.openpty()
    resize(terminal, columns)
    environment = {name: value for name, value in os.environ.items() if name not in ("XTERM_VERSION", "STY", "NO_COLOR")}
    environment["TERM"] = "xterm-256color"
    child = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=environment)
    os.close(inside)
    seen, narrower = b"", False
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        sys.stdout.buffer.write(piece)
        seen += piece
        if not narrower and b"% " in seen:
            narrower = True
            resize(terminal, fewer)
            child.send_signal(signal.SIGWINCH)
            sys.stdout.buffer.write(b"\n<<narrower>>\n")
        sys.stdout.buffer.flush()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
