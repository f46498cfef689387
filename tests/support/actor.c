/* A program that does one thing to a file and prints the errno of it, 0 when it worked.
 *
 *   write PATH | create PATH | read PATH | truncate PATH | unlink PATH | mkdir PATH | rmdir PATH
 *   chattr PATH                   sets +a
 *   map PATH                      writes through a mapping, for some seconds; EIO when that does not stay
 *   replace SOURCE TARGET         as package managers do: TARGET.dpkg-new is made and renamed
 *   run PROGRAM ARGUMENTS...      as a child, waited for
 *   traced PROGRAM ARGUMENTS...   the same under ptrace(2)
 *   become PATH PROGRAM ARGUMENTS...  deletes PATH and is then that program
 *   orphan PROGRAM ARGUMENTS...   as a grandchild whose parent has gone
 *
 * "then" between steps of the first two lines does one after another, up to the first that fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int touch(const char *path, int flags)
{
	int fd = open(path, flags, 0644);
	if (fd < 0)
		return errno;
	if ((flags & O_ACCMODE) != O_RDONLY && write(fd, "w", 1) != 1)
		return errno;
	close(fd);
	return 0;
}

static int replace(const char *source, const char *target)
{
	char name[4096], buffer[65536];
	ssize_t n;
	int from = open(source, O_RDONLY), to;
	snprintf(name, sizeof(name), "%s.dpkg-new", target);
	if (from < 0 || (to = open(name, O_WRONLY | O_CREAT | O_EXCL, 0)) < 0)
		return errno;
	while ((n = read(from, buffer, sizeof(buffer))) > 0)
		if (write(to, buffer, n) != n)
			return errno;
	if (fchmod(to, 0755) != 0 || close(to) != 0 || rename(name, target) != 0)
		return errno;
	return 0;
}

static int map(const char *path)
{
	int fd = open(path, O_RDWR), second;
	volatile char *bytes;
	if (fd < 0)
		return errno;
	bytes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (bytes == MAP_FAILED)
		return errno;
	for (second = 0; second < 4; second++) {
		char mine = 'A' + second;
		bytes[0] = mine;
		sleep(1);
		if (bytes[0] != mine)
			return EIO;
	}
	return 0;
}

static int append_only(const char *path)
{
	int fd = open(path, O_RDONLY), flags = FS_APPEND_FL, error;
	if (fd < 0)
		return errno;
	error = ioctl(fd, FS_IOC_SETFLAGS, &flags) ? errno : 0;
	close(fd);
	return error;
}

static void start(char **command)
{
	execv(command[0], command);
	printf("%d\n", errno);
	fflush(stdout);
	_exit(1);
}

static int run(char **command, int traced)
{
	int status;
	pid_t child = fork();
	if (child == 0) {
		if (traced)
			ptrace(PTRACE_TRACEME, 0, 0, 0);
		start(command);
	}
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status))
		ptrace(PTRACE_CONT, child, 0, 0);
	return 0;
}

static int orphan(char **command)
{
	pid_t parent = getpid();
	pid_t child = fork();
	if (child != 0)
		return 0;
	while (getppid() == parent)
		usleep(1000);
	start(command);
	return 1;
}

static int steps(char **step)
{
	int error;
	for (;;) {
		int length = 2;
		if (!strcmp(step[0], "write"))
			error = touch(step[1], O_WRONLY);
		else if (!strcmp(step[0], "create"))
			error = touch(step[1], O_WRONLY | O_CREAT | O_EXCL);
		else if (!strcmp(step[0], "read"))
			error = touch(step[1], O_RDONLY);
		else if (!strcmp(step[0], "truncate"))
			error = truncate(step[1], 0) ? errno : 0;
		else if (!strcmp(step[0], "unlink"))
			error = unlink(step[1]) ? errno : 0;
		else if (!strcmp(step[0], "map"))
			error = map(step[1]);
		else if (!strcmp(step[0], "mkdir"))
			error = mkdir(step[1], 0755) ? errno : 0;
		else if (!strcmp(step[0], "rmdir"))
			error = rmdir(step[1]) ? errno : 0;
		else if (!strcmp(step[0], "chattr"))
			error = append_only(step[1]);
		else if (!strcmp(step[0], "replace") && step[1])
			error = replace(step[1], step[2]), length = 3;
		else
			return 2;
		step += length;
		if (error != 0 || !step[0] || strcmp(step[0], "then") || !step[1] || !step[2])
			break;
		step++;
	}
	printf("%d\n", error);
	return 0;
}

int main(int count, char **arguments)
{
	const char *what = count > 2 ? arguments[1] : "";
	if (!strcmp(what, "run"))
		return run(arguments + 2, 0);
	if (!strcmp(what, "traced"))
		return run(arguments + 2, 1);
	if (!strcmp(what, "become") && unlink(arguments[2]) == 0)
		start(arguments + 3);
	if (!strcmp(what, "orphan"))
		return orphan(arguments + 2);
	if (!*what)
		return 2;
	return steps(arguments + 1);
}
