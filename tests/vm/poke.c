// SPDX-License-Identifier: MIT
/* Writes a pattern through a mapping of a device, or checks that it is there: poke FILE LENGTH write|read */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
	size_t length;
	volatile uint64_t *p;
	int fd;

	if (argc != 4)
		return 2;
	length = strtoul(argv[2], NULL, 0);
	fd = open(argv[1], O_RDWR);
	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	/* Every page, and not every word: each access of emulated CXL memory takes about a microsecond. */
	for (size_t i = 0; i < length / 8; i += 64) {
		uint64_t want = (i + 1) * 0x9e3779b97f4a7c15u;

		if (!strcmp(argv[3], "write")) {
			p[i] = want;
		} else if (p[i] != want) {
			fprintf(stderr, "%s: %#zx holds %#lx, not %#lx\n", argv[1], i * 8, (unsigned long)p[i],
				(unsigned long)want);
			return 1;
		}
	}
	return 0;
}
