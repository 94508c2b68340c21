// SPDX-License-Identifier: MIT
/* vm: short */
/* The layout of the contract: checked when this is compiled, in C and C++, for 64 and 32 bits (see the Makefile). */
#include "layout.h"

int main(void) { return 0; }
