/* A disk that is full while the file FULL_DISK exists, for the programs that load this before libc: what is written to a regular
 * file fails as it does there. Unlike a small file system it needs no rights. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_full(int fd) {
  static const char *flag;
  struct stat facts;
  int before = errno;
  if (!flag && !(flag = getenv("FULL_DISK"))) flag = "";
  int full = *flag && access(flag, F_OK) == 0 && fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode);
  errno = full ? ENOSPC : before;
  return full;
}

#define WRITES(type, name, parameters, ...)                                 \
  type name parameters {                                                    \
    static type(*real) parameters;                                          \
    if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name);          \
    return is_full(fd) ? -1 : real(__VA_ARGS__);                            \
  }

WRITES(ssize_t, write, (int fd, const void *from, size_t count), fd, from, count)
WRITES(ssize_t, pwrite, (int fd, const void *from, size_t count, off_t at), fd, from, count, at)
WRITES(ssize_t, pwrite64, (int fd, const void *from, size_t count, off64_t at), fd, from, count, at)
WRITES(ssize_t, writev, (int fd, const struct iovec *from, int count), fd, from, count)
WRITES(ssize_t, pwritev, (int fd, const struct iovec *from, int count, off_t at), fd, from, count, at)
WRITES(ssize_t, pwritev64, (int fd, const struct iovec *from, int count, off64_t at), fd, from, count, at)
WRITES(ssize_t, copy_file_range, (int in, off64_t *from, int fd, off64_t *to, size_t count, unsigned flags), in, from, fd, to,
       count, flags)
