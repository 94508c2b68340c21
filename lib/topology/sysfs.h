/* SPDX-License-Identifier: MIT */
/* What the files that read sysfs share. No state. */
#ifndef MCI_SYSFS_H
#define MCI_SYSFS_H

#include "topology/topology.h"

void mci_sysfs_copy(char *out, size_t size, const char *text);
/* First line of a file, printable ASCII only; "" and false if there is none. */
bool mci_sysfs_line(const char *dir, const char *file, char *out, size_t size);
int64_t mci_sysfs_number(const char *dir, const char *file, int64_t missing);
/* Last part of a symbolic link. */
bool mci_sysfs_link(const char *dir, const char *file, char *out, size_t size);
void mci_sysfs_device(const char *path, const char *name, struct mci_device *dev);
/* Room for one more at the end of the array that @array points to, zeroed; NULL also beyond what is believed. */
void *mci_sysfs_append(void *array, unsigned int *count, size_t size);

/* rdma.c: a folder of class/infiniband */
int mci_sysfs_rdma(struct mci_topology *t, const char *path, const char *name);

#endif
