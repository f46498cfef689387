/* storm TREE OUTSIDE SEED COUNT: changes names and metadata in TREE at random, COUNT times.
 *
 * TREE holds d0 ... d19, each with f0 ... f19. What fails fails: the gate refuses some of it, and others are at work.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { DIRECTORIES = 20, FILES = 20 };

static const char *tree, *outside;
static unsigned seed;
static int number;

static int any(int below)
{
	return rand_r(&seed) % below;
}

static const char *directory(void)
{
	static char path[2][4096];
	static int which;
	which = !which;
	snprintf(path[which], sizeof(path[which]), "%s/d%d", tree, any(DIRECTORIES));
	return path[which];
}

static const char *file(void)
{
	static char path[2][4096];
	static int which;
	which = !which;
	snprintf(path[which], sizeof(path[which]), "%s/f%d", directory(), any(FILES));
	return path[which];
}

static const char *foreign(const char *below)
{
	static char path[4096];
	snprintf(path, sizeof(path), "%s/x%d-%d", below, getpid(), ++number);
	return path;
}

static const char *foreign_file(void)
{
	const char *path = foreign(outside);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	if (fd >= 0) {
		dprintf(fd, "%s", path);
		close(fd);
	}
	return path;
}

static void flags(const char *path, int wanted)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK);
	if (fd >= 0) {
		ioctl(fd, FS_IOC_SETFLAGS, &wanted);
		close(fd);
	}
}

static void remove_tree(const char *top)
{
	char path[4200];
	for (int i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/f%d", top, i);
		unlink(path);
	}
	rmdir(top);
}

static void change(void)
{
	struct timespec times[2] = { { 1, 2 }, { 3, 4 } };
	char path[4096];
	switch (any(24)) {
	case 0: case 1: case 2: unlink(file()); break;
	case 3: rename(file(), file()); break;
	case 4: rename(file(), foreign(directory())); break;
	case 5: rename(file(), foreign(outside)); break;
	case 6: rename(foreign_file(), file()); break;
	case 7: rename(foreign_file(), foreign(directory())); break;
	case 8: renameat2(AT_FDCWD, file(), AT_FDCWD, file(), RENAME_EXCHANGE); break;
	case 9: renameat2(AT_FDCWD, file(), AT_FDCWD, foreign_file(), RENAME_EXCHANGE); break;
	case 10: if (any(10) == 0) rename(directory(), foreign(any(2) ? outside : tree)); break;
	case 11: if (any(10) == 0) remove_tree(directory()); break;
	case 12: mkdir(foreign(directory()), 0777); break;
	case 13: symlink("/etc/passwd", foreign(directory())); break;
	case 14: mkfifo(foreign(directory()), 0666); break;
	case 15: mknod(foreign(directory()), S_IFREG | 0666, 0); break;
	case 16: link(file(), foreign(directory())); break;
	case 17: link(file(), foreign(outside)); break;
	case 18: chmod(any(2) ? file() : directory(), any(01000)); break;
	case 19: if (chown(any(2) ? file() : directory(), any(1000), any(1000))) break; break;
	case 20: setxattr(file(), "user.intruder", "1", 1, 0); break;
	case 21: utimensat(AT_FDCWD, any(2) ? file() : directory(), times, 0); break;
	case 22: flags(any(4) ? file() : directory(), any(2) ? FS_IMMUTABLE_FL : FS_APPEND_FL); break;
	case 23:
		snprintf(path, sizeof(path), "%s", foreign(directory()));
		int fd = open(path, O_WRONLY | O_CREAT, 0600);
		if (fd >= 0) {
			dprintf(fd, "evil");
			close(fd);
		}
		break;
	}
}

int main(int count, char **arguments)
{
	if (count != 5)
		return 2;
	tree = arguments[1];
	outside = arguments[2];
	seed = atoi(arguments[3]);
	for (int left = atoi(arguments[4]); left > 0; left--) {
		change();
		/* Not faster than a file can be healed, or it would be about the last change only. */
		if (any(4) == 0)
			usleep(5000);
	}
	return 0;
}
