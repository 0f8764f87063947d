// LD_PRELOAD: counts calls of libc that touch files below a folder, and makes chosen ones fail.
//
//   FAULT_ROOT   only calls on paths below this folder count; calls without a path always do
//   FAULT_MATCH  and only those whose path matches this pattern of fnmatch
//   FAULT_KINDS  kinds of calls that count, with commas between them, or "all"
//   FAULT_FROM   the first call that the fault befalls, by number from 1
//   FAULT_TO     the last one; 0: all that follow
//   FAULT_DO     number of an error (errno); or "short": half of the bytes; "tear": half of the
//                bytes, then death; "slow"; "signal N"; "count": nothing
//   FAULT_SIZE   memory that is asked for counts from this many bytes on
//   FAULT_LOG    file to which a line is added for each call that is hit, or counts where none is
//   FAULT_DISK   folder whose contents are noted as they become durable, see disk.py
//   FAULT_IMAGE  folder for these notes
//
// Only the first process acts: what it starts runs undisturbed.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum Kind { OPEN, CREATE, READ, WRITE, SYNC, RENAME, UNLINK, MKDIR, TRUNCATE, ALLOCATE, CLOSE, STAT,
            LIST, LOCK, SPACE, MODE, MMAP, MALLOC, THREAD, KINDS };
static const char* const kNames[KINDS] = {
    "open",  "create", "read", "write", "sync", "rename", "unlink", "mkdir", "truncate", "allocate",
    "close", "stat",   "list", "lock",  "space", "mode", "mmap",   "malloc", "thread"};

enum Action { NOTHING, FAIL, SHORT, TEAR, SLOW, SIGNAL };

static int active, wanted[KINDS];
static enum Action action = NOTHING;
static int error_number, signal_number, log_file = -1, notes = -1;
static long first = 0, last = -1, calls = 0, least = 1 << 16;
static const char *root, *match, *disk, *image;
static size_t root_length, disk_length;
static pthread_mutex_t gate = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void set_up(void) __attribute__((constructor));
static void set_up(void) {
  root = getenv("FAULT_ROOT");
  if (!root || getenv("FAULT_TAKEN")) return;
  setenv("FAULT_TAKEN", "1", 1);
  root_length = strlen(root);
  match = getenv("FAULT_MATCH");
  const char* kinds = getenv("FAULT_KINDS");
  for (int kind = 0; kinds && kind < KINDS; ++kind) {
    const char* found = kinds;
    const size_t length = strlen(kNames[kind]);
    wanted[kind] = strcmp(kinds, "all") == 0;
    while (!wanted[kind] && (found = strstr(found, kNames[kind]))) {
      wanted[kind] = (found == kinds || found[-1] == ',') && (!found[length] || found[length] == ',');
      found += length;
    }
  }
  if (getenv("FAULT_FROM")) first = atol(getenv("FAULT_FROM"));
  if (getenv("FAULT_TO")) last = atol(getenv("FAULT_TO"));
  if (getenv("FAULT_SIZE")) least = atol(getenv("FAULT_SIZE"));
  const char* what = getenv("FAULT_DO");
  if (what && strcmp(what, "short") == 0) action = SHORT;
  else if (what && strcmp(what, "tear") == 0) action = TEAR;
  else if (what && strcmp(what, "slow") == 0) action = SLOW;
  else if (what && strncmp(what, "signal ", 7) == 0) action = SIGNAL, signal_number = atoi(what + 7);
  else if (what && strcmp(what, "count") != 0) action = FAIL, error_number = atoi(what);
  const int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
  if (getenv("FAULT_LOG"))
    log_file = (int)syscall(SYS_openat, AT_FDCWD, getenv("FAULT_LOG"), flags, 0666);
  disk = getenv("FAULT_DISK"), image = getenv("FAULT_IMAGE");
  if (disk && image) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/notes", image);
    disk_length = strlen(disk);
    notes = (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0666);
  }
  active = 1;
}

// --- paths ---------------------------------------------------------------------------------------

static int path_of(int descriptor, char* path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  path[length > 0 ? length : 0] = 0;
  return length > 0 && path[0] == '/';
}

static int path_at(int folder, const char* name, char* path) {
  if (!name) return 0;
  if (name[0] == '/') return snprintf(path, PATH_MAX, "%s", name) > 0;
  if (folder == AT_FDCWD) {
    if (syscall(SYS_getcwd, path, PATH_MAX) < 0) return 0;
  } else if (!path_of(folder, path)) {
    return 0;
  }
  const size_t length = strlen(path);
  return snprintf(path + length, PATH_MAX - length, name[0] ? "/%s" : "%s", name) >= 0;
}

static int below(const char* path, const char* folder, size_t length) {
  return strncmp(path, folder, length) == 0 && (path[length] == '/' || !path[length]);
}

// --- faults --------------------------------------------------------------------------------------

static void die(void) {
  syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
  for (;;) continue;
}

// What befalls this call; sets errno where it is to fail.
static enum Action decide(enum Kind kind, const char* path) {
  if (!active || !wanted[kind]) return NOTHING;
  if (path && (!below(path, root, root_length) || (match && fnmatch(match, path, 0)))) return NOTHING;
  if (!path && match) return NOTHING;
  pthread_mutex_lock(&gate);
  const long number = ++calls;
  const int hit = action != NOTHING && number >= first && (number <= last || last == 0);
  if (log_file >= 0 && (action == NOTHING || (hit && number < first + 1000))) {
    char line[PATH_MAX + 64];
    const int length = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\n", number, kNames[kind],
                                hit ? "hit" : "", path ? path : "");
    syscall(SYS_write, log_file, line, length);
  }
  if (hit && action == SIGNAL && signal_number == SIGKILL) die();
  pthread_mutex_unlock(&gate);
  if (!hit) return NOTHING;
  if (action == SIGNAL) {
    syscall(SYS_kill, syscall(SYS_getpid), signal_number);
    return NOTHING;
  }
  if (action == SLOW) {
    usleep(200000);
    return NOTHING;
  }
  if (action == FAIL) errno = error_number;
  return action;
}

static enum Action on_path(enum Kind kind, int folder, const char* name) {
  char path[PATH_MAX];
  if (!active || !wanted[kind]) return NOTHING;
  return path_at(folder, name, path) ? decide(kind, path) : NOTHING;
}

static enum Action on_file(enum Kind kind, int descriptor) {
  char path[PATH_MAX];
  const int saved = errno;
  if (!active || !wanted[kind] || descriptor < 0) return NOTHING;
  const enum Action found = path_of(descriptor, path) ? decide(kind, path) : NOTHING;
  if (found == NOTHING) errno = saved;
  return found;
}

static size_t half(size_t count) { return count > 1 ? count / 2 : count; }

// --- what is durable -----------------------------------------------------------------------------

static void note(const char* format, ...) {
  char line[2 * PATH_MAX];
  va_list rest;
  va_start(rest, format);
  const int length = vsnprintf(line, sizeof line, format, rest);
  va_end(rest);
  syscall(SYS_write, notes, line, length);
}

// Splits a path below the disk into the number of its folder and its name; 0 where it is not there.
static unsigned long folder_of(char* path, const char** name) {
  struct stat status;
  char* slash = strrchr(path, '/');
  if (!slash || !below(path, disk, disk_length) || strlen(path) == disk_length) return 0;
  *slash = 0;
  *name = slash + 1;
  if (syscall(SYS_newfstatat, AT_FDCWD, path, &status, 0) != 0) return 0;
  return status.st_ino;
}

static int there(const char* path, struct stat* status) {
  return syscall(SYS_newfstatat, AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW) == 0;
}

// Keeps the inode alive, so that its number is not given to another file.
static void hold(const char* path) {
  if (below(path, disk, disk_length))
    syscall(SYS_openat, AT_FDCWD, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
}

static void begin(void) {
  if (notes >= 0) pthread_mutex_lock(&gate);
}

static void end(void) {
  if (notes >= 0) pthread_mutex_unlock(&gate);
}

static void created(int folder, const char* name, char type) {
  char path[PATH_MAX];
  const char* last_name;
  struct stat status;
  const int saved = errno;
  if (notes >= 0 && path_at(folder, name, path) && there(path, &status)) {
    hold(path);
    const unsigned long parent = folder_of(path, &last_name);
    if (parent) note("C\t%lu\t%s\t%lu\t%c\n", parent, last_name, (unsigned long)status.st_ino, type);
  }
  errno = saved;
}

static void removed(const char* whole) {
  char path[PATH_MAX];
  const char* name;
  const int saved = errno;
  snprintf(path, sizeof path, "%s", whole);
  const unsigned long parent = folder_of(path, &name);
  if (parent) note("U\t%lu\t%s\n", parent, name);
  errno = saved;
}

// The content of a file as it is now, for the time when it will be durable.
static void copy_content(int descriptor, unsigned long number) {
  char path[PATH_MAX], piece[1 << 16];
  long count;
  snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
  const int from = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
  snprintf(path, sizeof path, "%s/%lu", image, number);
  const int to = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  while ((count = syscall(SYS_read, from, piece, sizeof piece)) > 0) syscall(SYS_write, to, piece, count);
  syscall(SYS_close, from);
  syscall(SYS_close, to);
}

static void synced(int descriptor) {
  char path[PATH_MAX];
  struct stat status;
  const int saved = errno;
  if (notes >= 0 && path_of(descriptor, path) && below(path, disk, disk_length) &&
      syscall(SYS_fstat, descriptor, &status) == 0) {
    if (S_ISDIR(status.st_mode)) note("S\t%lu\n", (unsigned long)status.st_ino);
    else copy_content(descriptor, status.st_ino);
  }
  errno = saved;
}

// --- open and close ------------------------------------------------------------------------------

static int open_call(int (*real)(int, const char*, int, ...), int folder, const char* name,
                     int flags, mode_t mode) {
  char path[PATH_MAX];
  struct stat status;
  if (on_path(flags & O_CREAT ? CREATE : OPEN, folder, name) == FAIL) return -1;
  if (notes < 0 || !(flags & O_CREAT) || !path_at(folder, name, path))
    return real(folder, name, flags, mode);
  begin();
  const int existed = there(path, &status);
  const int found = real(folder, name, flags, mode);
  if (found >= 0 && !existed) created(folder, name, 'f');
  end();
  return found;
}

#define MODE_OF(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }
#define OPEN_CALLS(plain, at) \
  int at(int folder, const char* name, int flags, ...) { \
    REAL(at); \
    MODE_OF(flags) \
    return open_call(real, folder, name, flags, mode); \
  } \
  int plain(const char* name, int flags, ...) { \
    static __typeof__(&at) real; \
    if (!real) real = (__typeof__(&at))dlsym(RTLD_NEXT, #at); \
    MODE_OF(flags) \
    return open_call(real, AT_FDCWD, name, flags, mode); \
  }
OPEN_CALLS(open, openat)
OPEN_CALLS(open64, openat64)

int close(int descriptor) {
  REAL(close);
  const enum Action found = on_file(CLOSE, descriptor);
  const int done = real(descriptor);  // a close that reports an error has closed
  if (found != FAIL) return done;
  errno = error_number;
  return -1;
}

// --- bytes ---------------------------------------------------------------------------------------

// A vector of half the bytes of the first part; calls take one part nearly always.
#define HALF_VECTOR struct iovec less = {parts->iov_base, half(parts->iov_len)};

#define BYTES(type, name, kind, arguments, whole, partial) \
  ssize_t name arguments { \
    REAL(name); \
    const enum Action found = on_file(kind, descriptor); \
    if (found == FAIL) return -1; \
    if (found == NOTHING) return real whole; \
    type \
    const ssize_t done = real partial; \
    if (found == TEAR) die(); \
    return done; \
  }
#define VECTOR const struct iovec *parts, int number
BYTES(, read, READ, (int descriptor, void* data, size_t count), (descriptor, data, count),
      (descriptor, data, half(count)))
BYTES(, pread, READ, (int descriptor, void* data, size_t count, off_t at),
      (descriptor, data, count, at), (descriptor, data, half(count), at))
BYTES(, pread64, READ, (int descriptor, void* data, size_t count, off64_t at),
      (descriptor, data, count, at), (descriptor, data, half(count), at))
BYTES(HALF_VECTOR, readv, READ, (int descriptor, VECTOR), (descriptor, parts, number),
      (descriptor, &less, 1))
BYTES(HALF_VECTOR, preadv, READ, (int descriptor, VECTOR, off_t at),
      (descriptor, parts, number, at), (descriptor, &less, 1, at))
BYTES(HALF_VECTOR, preadv64, READ, (int descriptor, VECTOR, off64_t at),
      (descriptor, parts, number, at), (descriptor, &less, 1, at))
BYTES(HALF_VECTOR, preadv2, READ, (int descriptor, VECTOR, off_t at, int flags),
      (descriptor, parts, number, at, flags), (descriptor, &less, 1, at, flags))
BYTES(HALF_VECTOR, preadv64v2, READ, (int descriptor, VECTOR, off64_t at, int flags),
      (descriptor, parts, number, at, flags), (descriptor, &less, 1, at, flags))
BYTES(, write, WRITE, (int descriptor, const void* data, size_t count), (descriptor, data, count),
      (descriptor, data, half(count)))
BYTES(, pwrite, WRITE, (int descriptor, const void* data, size_t count, off_t at),
      (descriptor, data, count, at), (descriptor, data, half(count), at))
BYTES(, pwrite64, WRITE, (int descriptor, const void* data, size_t count, off64_t at),
      (descriptor, data, count, at), (descriptor, data, half(count), at))
BYTES(HALF_VECTOR, writev, WRITE, (int descriptor, VECTOR), (descriptor, parts, number),
      (descriptor, &less, 1))
BYTES(HALF_VECTOR, pwritev, WRITE, (int descriptor, VECTOR, off_t at),
      (descriptor, parts, number, at), (descriptor, &less, 1, at))
BYTES(HALF_VECTOR, pwritev64, WRITE, (int descriptor, VECTOR, off64_t at),
      (descriptor, parts, number, at), (descriptor, &less, 1, at))
BYTES(HALF_VECTOR, pwritev2, WRITE, (int descriptor, VECTOR, off_t at, int flags),
      (descriptor, parts, number, at, flags), (descriptor, &less, 1, at, flags))
BYTES(HALF_VECTOR, pwritev64v2, WRITE, (int descriptor, VECTOR, off64_t at, int flags),
      (descriptor, parts, number, at, flags), (descriptor, &less, 1, at, flags))

// --- durability and space ------------------------------------------------------------------------

#define FAILS(result, name, kind, arguments, passed) \
  result name arguments { \
    REAL(name); \
    return on_file(kind, descriptor) == FAIL ? -1 : real passed; \
  }
#define SYNCS(name) \
  int name(int descriptor) { \
    REAL(name); \
    if (on_file(SYNC, descriptor) == FAIL) return -1; \
    begin(); \
    const int done = real(descriptor); \
    if (done == 0) synced(descriptor); \
    end(); \
    return done; \
  }
SYNCS(fsync)
SYNCS(fdatasync)
FAILS(int, sync_file_range, SYNC, (int descriptor, off64_t at, off64_t count, unsigned flags),
      (descriptor, at, count, flags))
FAILS(int, ftruncate, TRUNCATE, (int descriptor, off_t size), (descriptor, size))
FAILS(int, ftruncate64, TRUNCATE, (int descriptor, off64_t size), (descriptor, size))
FAILS(int, fallocate, ALLOCATE, (int descriptor, int mode, off_t at, off_t size),
      (descriptor, mode, at, size))
FAILS(int, fallocate64, ALLOCATE, (int descriptor, int mode, off64_t at, off64_t size),
      (descriptor, mode, at, size))
FAILS(int, flock, LOCK, (int descriptor, int operation), (descriptor, operation))
FAILS(int, fstat, STAT, (int descriptor, struct stat* status), (descriptor, status))
FAILS(int, fstat64, STAT, (int descriptor, struct stat64* status), (descriptor, status))
FAILS(int, fchmod, MODE, (int descriptor, mode_t mode), (descriptor, mode))

int posix_fallocate(int descriptor, off_t at, off_t size) {
  REAL(posix_fallocate);
  return on_file(ALLOCATE, descriptor) == FAIL ? error_number : real(descriptor, at, size);
}
int posix_fallocate64(int descriptor, off64_t at, off64_t size) {
  REAL(posix_fallocate64);
  return on_file(ALLOCATE, descriptor) == FAIL ? error_number : real(descriptor, at, size);
}

#define FCNTL(name) \
  int name(int descriptor, int command, ...) { \
    REAL(name); \
    va_list rest; \
    va_start(rest, command); \
    void* argument = va_arg(rest, void*); \
    va_end(rest); \
    const int locks = command == F_SETLK || command == F_SETLKW; \
    if (locks && on_file(LOCK, descriptor) == FAIL) return -1; \
    return real(descriptor, command, argument); \
  }
FCNTL(fcntl)
FCNTL(fcntl64)

// --- names ---------------------------------------------------------------------------------------

#define NAMED(result, failure, name, kind, arguments, folder, path, passed) \
  result name arguments { \
    REAL(name); \
    return on_path(kind, folder, path) == FAIL ? failure : real passed; \
  }
NAMED(int, -1, stat, STAT, (const char* name, struct stat* status), AT_FDCWD, name, (name, status))
NAMED(int, -1, stat64, STAT, (const char* name, struct stat64* status), AT_FDCWD, name, (name, status))
NAMED(int, -1, lstat, STAT, (const char* name, struct stat* status), AT_FDCWD, name, (name, status))
NAMED(int, -1, lstat64, STAT, (const char* name, struct stat64* status), AT_FDCWD, name, (name, status))
NAMED(int, -1, fstatat, STAT, (int folder, const char* name, struct stat* status, int flags),
      folder, name, (folder, name, status, flags))
NAMED(int, -1, fstatat64, STAT, (int folder, const char* name, struct stat64* status, int flags),
      folder, name, (folder, name, status, flags))
NAMED(int, -1, statx, STAT,
      (int folder, const char* name, int flags, unsigned mask, struct statx* status), folder, name,
      (folder, name, flags, mask, status))
NAMED(int, -1, access, STAT, (const char* name, int mode), AT_FDCWD, name, (name, mode))
NAMED(int, -1, faccessat, STAT, (int folder, const char* name, int mode, int flags), folder, name,
      (folder, name, mode, flags))
NAMED(int, -1, statvfs, SPACE, (const char* name, struct statvfs* status), AT_FDCWD, name,
      (name, status))
NAMED(int, -1, statvfs64, SPACE, (const char* name, struct statvfs64* status), AT_FDCWD, name,
      (name, status))
NAMED(int, -1, chmod, MODE, (const char* name, mode_t mode), AT_FDCWD, name, (name, mode))
NAMED(DIR*, NULL, opendir, LIST, (const char* name), AT_FDCWD, name, (name))

DIR* fdopendir(int descriptor) {
  REAL(fdopendir);
  return on_file(LIST, descriptor) == FAIL ? NULL : real(descriptor);
}

#define MAKES(name, arguments, folder, passed) \
  int name arguments { \
    REAL(name); \
    if (on_path(MKDIR, folder, path) == FAIL) return -1; \
    begin(); \
    const int done = real passed; \
    if (done == 0) created(folder, path, 'd'); \
    end(); \
    return done; \
  }
MAKES(mkdir, (const char* path, mode_t mode), AT_FDCWD, (path, mode))
MAKES(mkdirat, (int folder, const char* path, mode_t mode), folder, (folder, path, mode))

#define REMOVES(name, arguments, folder, passed) \
  int name arguments { \
    char whole[PATH_MAX]; \
    REAL(name); \
    if (on_path(UNLINK, folder, path) == FAIL) return -1; \
    if (notes < 0 || !path_at(folder, path, whole)) return real passed; \
    begin(); \
    hold(whole); \
    const int done = real passed; \
    if (done == 0) removed(whole); \
    end(); \
    return done; \
  }
REMOVES(unlink, (const char* path), AT_FDCWD, (path))
REMOVES(rmdir, (const char* path), AT_FDCWD, (path))
REMOVES(unlinkat, (int folder, const char* path, int flags), folder, (folder, path, flags))

static int rename_call(int (*real)(int, const char*, int, const char*, unsigned), int folder,
                       const char* name, int to_folder, const char* to_name, unsigned flags) {
  char from[PATH_MAX], to[PATH_MAX];
  const char *from_last, *to_last;
  if (on_path(RENAME, to_folder, to_name) == FAIL) return -1;
  if (notes < 0 || !path_at(folder, name, from) || !path_at(to_folder, to_name, to))
    return real(folder, name, to_folder, to_name, flags);
  begin();
  hold(to);
  const int done = real(folder, name, to_folder, to_name, flags);
  const int saved = errno;
  const unsigned long old = folder_of(from, &from_last), new = folder_of(to, &to_last);
  if (done == 0 && old && new)
    note("R\t%lu\t%s\t%lu\t%s\t%d\n", old, from_last, new, to_last, (flags & 2) != 0);
  end();
  errno = saved;
  return done;
}
int renameat2(int folder, const char* name, int to_folder, const char* to_name, unsigned flags) {
  REAL(renameat2);
  return rename_call(real, folder, name, to_folder, to_name, flags);
}
static int plain_renameat2(int folder, const char* name, int to_folder, const char* to_name,
                           unsigned flags) {
  REAL(renameat2);
  return real(folder, name, to_folder, to_name, flags);
}
int renameat(int folder, const char* name, int to_folder, const char* to_name) {
  return rename_call(plain_renameat2, folder, name, to_folder, to_name, 0);
}
int rename(const char* name, const char* to_name) {
  return rename_call(plain_renameat2, AT_FDCWD, name, AT_FDCWD, to_name, 0);
}

// --- memory and threads --------------------------------------------------------------------------

static int refused(enum Kind kind, size_t size) {
  return active && wanted[kind] && size >= (size_t)least && decide(kind, NULL) == FAIL;
}

#define MAPS(name, offset) \
  void* name(void* address, size_t size, int protection, int flags, int descriptor, offset at) { \
    REAL(name); \
    if (refused(MMAP, size)) return MAP_FAILED; \
    return real(address, size, protection, flags, descriptor, at); \
  }
MAPS(mmap, off_t)
MAPS(mmap64, off64_t)

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
void* malloc(size_t size) { return refused(MALLOC, size) ? NULL : __libc_malloc(size); }
void* calloc(size_t number, size_t size) {
  return refused(MALLOC, number * size) ? NULL : __libc_calloc(number, size);
}
void* realloc(void* old, size_t size) {
  return refused(MALLOC, size) ? NULL : __libc_realloc(old, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  return refused(MALLOC, size) ? NULL : __libc_memalign(alignment, size);
}
void* memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }
int posix_memalign(void** result, size_t alignment, size_t size) {
  const int saved = errno;
  void* found = aligned_alloc(alignment, size);
  errno = saved;
  if (!found) return ENOMEM;
  *result = found;
  return 0;
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* argument) {
  REAL(pthread_create);
  if (active && wanted[THREAD] && decide(THREAD, NULL) == FAIL) return error_number;
  return real(thread, attributes, start, argument);
}
