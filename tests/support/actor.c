/* A program that does one thing to a file and prints the errno of it, 0 when it worked.
 *
 *   write PATH | create PATH | read PATH
 *   run PROGRAM ARGUMENTS...      as a child, waited for
 *   traced PROGRAM ARGUMENTS...   the same under ptrace(2)
 *   orphan PROGRAM ARGUMENTS...   as a grandchild whose parent has gone
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
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

int main(int count, char **arguments)
{
	const char *what = count > 2 ? arguments[1] : "";
	if (!strcmp(what, "run"))
		return run(arguments + 2, 0);
	if (!strcmp(what, "traced"))
		return run(arguments + 2, 1);
	if (!strcmp(what, "orphan"))
		return orphan(arguments + 2);
	if (!strcmp(what, "write"))
		printf("%d\n", touch(arguments[2], O_WRONLY));
	else if (!strcmp(what, "create"))
		printf("%d\n", touch(arguments[2], O_WRONLY | O_CREAT | O_EXCL));
	else if (!strcmp(what, "read"))
		printf("%d\n", touch(arguments[2], O_RDONLY));
	else
		return 2;
	return 0;
}
