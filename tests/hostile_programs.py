"""Programs that try to get out of the sandbox, to outlive it, or to use it up.

Each prints 'escaped' for whatever it gets away with, and 'held' at its end, unless it has none: how it must end
then stands beside it. `SECRET` is in the environment, the home and the memory of the process that runs them.
"""

SECRET = "kept-9f3c1a"

PRELUDE = """
import ctypes, errno, mmap, os, platform, resource, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, function, *args):
    try:
        result = function(*args)
    except (OSError, MemoryError, ValueError, ImportError, RuntimeError, AttributeError) as error:
        return error
    print("escaped:", what, str(result)[:200], flush=True)
def call(*args):
    ctypes.set_errno(0)
    result = libc.syscall(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
NUMBERS = dict(zip(
    "fork vfork clone clone3 socket ptrace mount unshare setns shmget memfd keyctl bpf uring perf pivot".split(),
    (57, 58, 56, 435, 41, 101, 165, 272, 308, 29, 319, 250, 321, 425, 298, 155) if platform.machine() == "x86_64"
    else (220, 220, 220, 435, 198, 117, 40, 97, 268, 194, 279, 219, 280, 425, 241, 41)))
"""

# name -> how it must end, and its source. 'held': all was refused; 'dead': it ended on its own, without success.
PROGRAMS = {
    # children
    "fork bomb": (
        "held",
        """
while True:
  if attempt('fork', os.fork) is not None: break
""",
    ),
    "fork by number": (
        "held",
        """
for name in ('fork', 'vfork'):
  attempt(name, call, NUMBERS[name], 0, 0, 0, 0, 0)
attempt('clone', call, NUMBERS['clone'], signal.SIGCHLD, 0, 0, 0, 0)
attempt('clone3', call, NUMBERS['clone3'], ctypes.create_string_buffer(88), 88)
""",
    ),
    "subprocess": (
        "held",
        """
import subprocess
attempt('run', subprocess.run, ['/bin/true'])
""",
    ),
    "spawn": ("held", "attempt('spawn', os.posix_spawn, '/bin/true', ['true'], {})"),
    "shell": ("held", "if os.system('echo escaped') == 0: print('escaped')"),
    "multiprocessing": (
        "held",
        """
import multiprocessing as m
attempt('m', m.get_context('fork').Process(target=print).start)
""",
    ),
    "zombies": (
        "held",
        """
for _ in range(100):
  error = attempt('fork', lambda: os.fork() or os._exit(0))
""",
    ),
    "daemon": (
        "held",
        """
attempt('setsid child', lambda: os.fork() or (os.setsid(), os.fork(), time.sleep(60)))
""",
    ),
    "another shell in its place": (
        "dead",
        """
os.execv('/bin/sh', ['sh', '-c', '(sleep 99 &) && echo escaped; :(){ :|:& };: && echo escaped'])
""",
    ),
    "thread bomb": (
        "held|timeout",
        """
threading.stack_size(32768)
wait = threading.Event().wait
def bomb():
  for _ in range(100000): threading.Thread(target=wait, daemon=True).start()
attempt('threads', bomb)
print('held', flush=True)
os._exit(0)
""",
    ),
    # memory and disk
    "memory bomb": (
        "held",
        """
def grow():
  x = []
  while True: x.append(bytes(1 << 24))
attempt('grow', grow)
""",
    ),
    "doubling": (
        "held",
        """
def grow():
  x = 'x'
  while True: x += x
attempt('grow', grow)
""",
    ),
    "one block": (
        "held",
        """
attempt('4 GiB', bytes, 1 << 32)
attempt('mmap', mmap.mmap, -1, 1 << 32)
""",
    ),
    "memory outside of the address space": (
        "held",
        """
attempt('memfd', call, NUMBERS['memfd'], b'x', 0)
attempt('shm', call, NUMBERS['shmget'], 0, 1 << 34, 0o1600)
""",
    ),
    "full disk": (
        "held",
        """
def fill():
  size = 0
  try:
    for i in range(10000):
      with open(f'/tmp/{i}', 'wb', 0) as f:
        size += f.write(bytes(1 << 20))
  except OSError: pass
  return size
if fill() > 17 << 20: print('escaped')
""",
    ),
    "one large file": (
        "held",
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open('/tmp/x', 'wb', 0) as f:
  attempt('sparse', f.truncate, 1 << 33)
  f.seek(1 << 24)
  attempt('past the limit', f.write, b'x')
""",
    ),
    "files without end": (
        "timeout",
        """
for i in range(10 ** 9):
  with open(f'/tmp/{i}', 'w'): pass
""",
    ),
    "descriptors": (
        "held",
        """
def many():
  for _ in range(1000): os.dup(0)
attempt('dup', many)
""",
    ),
    "pipes": (
        "held",
        """
def many():
  for _ in range(1000): os.pipe()
attempt('pipe', many)
""",
    ),
    "raised limits": (
        "held",
        """
for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
  attempt(str(kind), resource.setrlimit, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
""",
    ),
    # time and output
    "loop": ("timeout", "while True: pass"),
    "loop in C": ("timeout", "9 ** 9 ** 9"),
    "loop in threads": (
        "timeout",
        """
def spin():
  while True: pass
for _ in range(4): threading.Thread(target=spin).start()
""",
    ),
    "backtracking": (
        "timeout",
        """
import re
re.match('(a+)+b', 'a' * 60)
""",
    ),
    "sleep": ("timeout", "time.sleep(3600)"),
    "stopped": ("held|timeout", "os.kill(os.getpid(), signal.SIGSTOP)"),
    "deaf to signals": (
        "dead|timeout",
        """
for s in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(s, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
while True: pass
""",
    ),
    "output closed": (
        "timeout",
        """
os.close(1); os.close(2)
while True: time.sleep(1)
""",
    ),
    "end that hangs": (
        "timeout",
        """
import atexit
atexit.register(time.sleep, 3600)
""",
    ),
    "input that never comes": (
        "timeout",
        """
r, w = os.pipe()
os.read(r, 1)
""",
    ),
    "output": ("output", "while True: print('x' * 1000)"),
    "one line of output": ("output", "sys.stdout.write('x' * (1 << 24))"),
    "errors": ("held", "for _ in range(100000): sys.stderr.write('x' * 1000)"),
    # what it can see
    "environment": ("held", "print('escaped' if any('kept' in k + v for k, v in os.environ.items()) else '')"),
    "home": (
        "held",
        """
for path in ('/home', '/etc', '/var', '/mnt', '/opt', '/srv', '/sys', '/boot', '/run', '/work'):
  if not sys.base_prefix.startswith(path): attempt(path, os.listdir, path)
attempt('~', os.listdir, os.path.expanduser('~/.ssh'))
""",
    ),
    "checkout": (
        "held",
        """
attempt('r1jax', __import__, 'r1jax')
attempt('checkout', open, CHECKOUT + '/setup.py')
""",
    ),
    "processes": (
        "held",
        """
attempt('proc', os.listdir, '/proc')
attempt('self', open, '/proc/self/environ')
attempt('parent', open, f'/proc/{os.getppid()}/environ')
attempt('trainer', open, f'/proc/{TRAINER}/mem', 'rb')
""",
    ),
    "descriptors it was given": (
        "held",
        """
for d in range(3, 256):
  try: data = os.read(d, 1 << 20)
  except OSError: continue
  print('escaped: can read', d, data[:100])
""",
    ),
    "the job again": (
        "held",
        """
for d in range(0, 64):
  try: os.lseek(d, 0, 0); data = os.read(d, 1 << 20)
  except OSError: continue
  if 'kept'.encode() + b'-9f' in data: print('escaped')
""",
    ),
    "its own memory": (
        "held",
        """
import gc
for o in gc.get_objects():
  if isinstance(o, (dict, list)) and ('kept' + '-9f3c1a') in str(o)[:100000]:
    print('escaped')
print('escaped' if ('kept' + '-9f3c1a') in str(sys.argv) + str(sys.orig_argv) else '')
""",
    ),
    "links": (
        "held",
        """
os.symlink('/', '/tmp/root'); os.symlink('/proc/1/root', '/tmp/init'); os.symlink('../../../..', '/tmp/up')
for a in ('root', 'init', 'up'):
  for b in ('etc/passwd', 'etc/shadow', 'work', 'home'):
    attempt(a + b, os.stat, f'/tmp/{a}/{b}')
attempt('dots', open, '/tmp/' + '../' * 20 + 'etc/passwd')
""",
    ),
    # what it can change
    "writes outside of /tmp": (
        "held",
        """
for path in ('/', '/usr', '/usr/lib', '/bin/', '/dev', '/dev/shm', '/lib', '/root', sys.prefix, os.__file__ + '/..'):
  attempt(path, open, os.path.join(os.path.dirname(path) if path.endswith('..') else path, 'x'), 'w')
  attempt(path, os.mkdir, path + '/x')
attempt('python', open, sys.executable, 'r+b')
attempt('library', open, os.__file__, 'a')
attempt('remove', os.remove, os.__file__)
""",
    ),
    "mounts": (
        "held",
        """
for flags in (0, 32, 4096):
  attempt('mount', call, NUMBERS['mount'], b'none', b'/tmp', b'tmpfs', flags, 0)
attempt('remount', call, NUMBERS['mount'], b'none', b'/usr', None, 4096 | 32, None)
attempt('pivot', call, NUMBERS['pivot'], b'/tmp', b'/tmp')
attempt('chroot', os.chroot, '/tmp')
""",
    ),
    "namespaces": (
        "held",
        """
for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000):
  attempt('unshare', call, NUMBERS['unshare'], flag)
attempt('setns', call, NUMBERS['setns'], 0, 0)
""",
    ),
    "sandbox in the sandbox": (
        "dead",
        """
os.execv('/usr/bin/bwrap', ['bwrap', '--bind', '/', '/', '/bin/echo', 'escaped'])
""",
    ),
    "devices": (
        "held",
        """
attempt('mknod', os.mknod, '/tmp/disk', 0o660 | 0o060000, os.makedev(8, 0))
attempt('mem', open, '/dev/mem', 'rb')
attempt('kmsg', open, '/dev/kmsg', 'rb')
""",
    ),
    "privileges": (
        "held",
        """
attempt('uid', os.setuid, 0)
attempt('gid', os.setgid, 0)
attempt('groups', os.setgroups, [0])
attempt('nice', os.nice, -20)
attempt('clock', time.clock_settime, time.CLOCK_REALTIME, 0)
attempt('host', lambda: call(170 if platform.machine() == 'x86_64' else 161, b'x', 1))
""",
    ),
    "setuid programs": ("dead", "os.execv('/bin/su', ['su', '-c', 'echo escaped'])"),
    "kernel interfaces": (
        "held",
        """
attempt('bpf', call, NUMBERS['bpf'], 0, ctypes.create_string_buffer(128), 128)
attempt('uring', call, NUMBERS['uring'], 8, ctypes.create_string_buffer(256))
attempt('perf', call, NUMBERS['perf'], ctypes.create_string_buffer(128), 0, -1, -1, 0)
attempt('keys', call, NUMBERS['keyctl'], 0, -3, 1)
""",
    ),
    # others
    "sockets": (
        "held",
        """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 16, 40):
  for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
    attempt(f'{family}', socket.socket, family, kind)
attempt('dns', socket.getaddrinfo, 'example.com', 80)
""",
    ),
    "killing": (
        "held",
        """
for pid in [os.getppid(), 1, TRAINER, *range(3, 400)]:
  try: os.kill(pid, signal.SIGKILL)
  except OSError: pass
try: os.kill(-1, signal.SIGKILL)
except OSError: pass
""",
    ),
    "killing its group": (
        "held",
        """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGKILL)
""",
    ),
    "tracing": (
        "held",
        """
attempt('attach', call, NUMBERS['ptrace'], 16, TRAINER, 0, 0)
attempt('init', call, NUMBERS['ptrace'], 16, 1, 0, 0)
""",
    ),
    "terminal": (
        "held",
        """
import fcntl, termios
attempt('push', fcntl.ioctl, 0, termios.TIOCSTI, b'x')
attempt('tty', open, '/dev/tty', 'r+')
""",
    ),
    # itself
    "crash": ("dead", "ctypes.string_at(0)"),
    "deep recursion": (
        "dead|timeout",
        """
sys.setrecursionlimit(10 ** 9)
f = lambda n: f(n + 1)
f(0)
""",
    ),
    "null bytes": ("dead", "print('held')\0"),
    "not unicode": ("dead", "\ud800"),
    "nested source": ("dead", "(" * 100_000),
}
