# Mooncake in C. `make help` lists the targets.
# Every variable here may be given on the command line: make B=build-x CC=clang WITH_STORE=0

B ?= build
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
ifeq ($(origin CC),default)
CC := gcc
endif
SAN ?=

# Components, as users of the classic build know them. 1 = build it if it is there.
WITH_P2P_STORE ?= 1
WITH_STORE ?= 1
USE_CUDA ?= 1
USE_CXL ?= 1
USE_RDMA ?= 1
USE_REDIS ?= 1
USE_ETCD ?= 1
USE_HTTP ?= 1
USE_NUMA ?= 1
USE_KMOD ?= 1
USE_NETLINK ?= 1

VERSION := 0.1.0
SOMAJOR := 1
SOVERSION := 1.0.0

COMPONENTS := WITH_P2P_STORE WITH_STORE USE_CUDA USE_CXL USE_RDMA USE_REDIS USE_ETCD USE_HTTP USE_NUMA USE_KMOD USE_NETLINK

# Without libnl topology is read from sysfs alone.
ifeq ($(USE_NETLINK),1)
ifneq ($(shell pkg-config --exists libnl-3.0 && echo y),y)
override USE_NETLINK := 0
$(info libnl-3-dev is not installed: building without netlink)
endif
endif

PKGS := jansson openssl yaml-0.1 libxxhash
PKGS += $(if $(filter 1,$(USE_ETCD) $(USE_HTTP)),libcurl)
PKGS += $(if $(filter 1,$(USE_HTTP)),libmicrohttpd)
PKGS += $(if $(filter 1,$(USE_REDIS)),hiredis)
PKGS += $(if $(filter 1,$(USE_NUMA)),numa)
PKGS += $(if $(filter 1,$(USE_KMOD) $(USE_NETLINK)),libnl-3.0) $(if $(filter 1,$(USE_KMOD)),libnl-genl-3.0)

ifneq ($(filter-out help clean style deps check-style check-layers,$(or $(MAKECMDGOALS),all)),)
MISSING := $(strip $(foreach p,$(PKGS),$(if $(shell pkg-config --exists $(p) && echo y),,$(p))))
ifneq ($(MISSING),)
$(error not found by pkg-config: $(MISSING). Run "scripts/deps" to install what the build needs)
endif
endif

WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith -Wundef
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE $(WARN) $(CFLAGS) $(SAN) -fvisibility=hidden -fno-strict-aliasing -pthread
LIB_CFLAGS = $(ALL_CFLAGS) -fPIC -Ilib -Ilib/include -I$(B) $(shell pkg-config --cflags $(PKGS))
TOOL_CFLAGS = $(ALL_CFLAGS) -Ilib/include -Itools -I$(B) $(shell pkg-config --cflags jansson)
LIBS = $(shell pkg-config --libs $(PKGS)) -lpthread

# The headers of libibverbs are enough: the library itself is opened at run time.
ifeq ($(USE_RDMA),1)
ifneq ($(shell pkg-config --exists libibverbs && echo y),y)
override USE_RDMA := 0
$(info libibverbs-dev is not installed: building without the rdma transport)
endif
endif
SKIP := $(if $(filter 0,$(USE_RDMA)),lib/transport/rdma/%.c) \
	$(if $(filter 0,$(USE_REDIS)),lib/metadata/redis.c) $(if $(filter 0,$(USE_ETCD)),lib/metadata/etcd%.c) \
	$(if $(filter 0,$(USE_HTTP)),lib/metadata/http.c lib/metadata/server%.c) \
	$(if $(filter 0,$(WITH_P2P_STORE)),lib/p2p/%.c) \
	$(if $(filter 0,$(USE_KMOD)),lib/kdev/kdev.c lib/kdev/buffer.c lib/kdev/listing.c,lib/kdev/none.c) \
	$(if $(filter 0,$(USE_NETLINK)),lib/topology/netlink.c,lib/topology/nonetlink.c)
LIB_SRC := $(filter-out $(SKIP),$(wildcard lib/*/*.c lib/*/*/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)

# One file per tool; `mooncake` is a table of subcommands, one file each; what they share is in tools/common.
NO_TOOL := $(if $(filter 0,$(WITH_P2P_STORE)),tools/p2p-store-example.c tools/common/p2p.c tools/mooncake/p2p%.c)
TOOL_SRC := $(filter-out $(NO_TOOL),$(wildcard tools/*.c))
TOOL_COMMON := $(patsubst %.c,$(B)/%.o,$(filter-out $(NO_TOOL),$(wildcard tools/common/*.c)))
TOOLS := $(patsubst tools/%.c,$(B)/bin/%,$(TOOL_SRC)) \
	$(if $(wildcard tools/mooncake/main.c),$(B)/bin/mooncake)

NO_TEST := $(if $(filter 0,$(WITH_P2P_STORE)),tests/unit/p2p_%.c tests/api/p2p%.c tests/bench/p2p_sim.c tests/fuzz/p2p_%.c) \
	$(if $(filter 0,$(USE_RDMA)),tests/unit/rdma_%.c tests/bench/registration.c)
UNIT := $(patsubst tests/%.c,$(B)/tests/%,$(filter-out $(NO_TEST),$(wildcard tests/unit/*.c)))
API := $(patsubst tests/%.c,$(B)/tests/%,$(filter-out $(NO_TEST),$(wildcard tests/api/*.c)))
BENCH := $(patsubst tests/%.c,$(B)/tests/%,$(filter-out $(NO_TEST),$(wildcard tests/bench/*.c)))
UAPI := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/uapi/*.c tests/vm/*.c)) \
	$(patsubst %,$(B)/tests/uapi/%32,layout errors errors_fields offsets)
EXAMPLES := $(patsubst %.c,$(B)/%,$(wildcard examples/*.c))
HELPERS := $(patsubst tests/%.c,$(B)/tests/%,$(filter-out $(if $(filter 0,$(USE_RDMA)),%_rdma_peer.c), \
	$(wildcard tests/net/*.c tests/interop/*.c)))
# A NIC in software, where the headers of libibverbs are there.
SOFTNIC := $(if $(filter 1,$(USE_RDMA)),$(B)/tests/softnic/libibverbs.so.1)
# A clock for perftest, which reads the counter of these processors.
PRELOAD := $(if $(filter x86_64,$(shell uname -m)),$(B)/tests/bench/preload/clock.so)
FUZZ := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(filter-out $(NO_TEST),$(wildcard tests/fuzz/*.c)))

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: FORCE FORCE_FUZZ_LIB all lib tools tests help check check-unit check-api check-scripts check-asan check-tsan check-style \
	check-layers check-builds check-vm check-vm-dkms check-vm-matrix check-vm-debug check-kmod kmod uapi-tests install-dkms fuzz fuzz-build soak bench bench-vm style install uninstall deps clean

all: lib tools ## library and tools

lib: $(B)/libmooncake.so $(B)/libmooncake.a $(B)/mooncake.pc ## shared and static library

tools: $(TOOLS) ## the command-line tools

tests: $(UNIT) $(API) $(HELPERS) $(BENCH) $(EXAMPLES) $(SOFTNIC) $(PRELOAD) ## test and bench programs

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | column -t -s'|'

# config.h says which optional parts this build has; it is rewritten only when that changes.
$(B)/config.h: FORCE
	@mkdir -p $(@D)
	@{ echo '/* generated by make */'; $(foreach c,$(COMPONENTS),echo '#define $(c) $($(c))';) } > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
FORCE:

# The contract with the kernel module is seen from one room.
$(B)/lib/kdev/%.o: LIB_CFLAGS += -Iuapi

$(B)/lib/%.o: lib/%.c $(B)/config.h
	@mkdir -p $(@D)
	$(CC) $(LIB_CFLAGS) -MMD -MP -c $< -o $@

$(B)/tools/%.o: tools/%.c $(B)/config.h
	@mkdir -p $(@D)
	$(CC) $(TOOL_CFLAGS) -MMD -MP -c $< -o $@

$(B)/libmooncake.a: $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^

$(B)/libmooncake.so.$(SOVERSION): $(LIB_OBJ) lib/libmooncake.map
	$(CC) $(ALL_CFLAGS) -shared -Wl,-soname,libmooncake.so.$(SOMAJOR) -Wl,--version-script=lib/libmooncake.map \
		$(if $(SAN),,-Wl,-z,defs) -o $@ $(LIB_OBJ) $(LIBS)

$(B)/libmooncake.so: $(B)/libmooncake.so.$(SOVERSION)
	ln -sf $(<F) $(B)/libmooncake.so.$(SOMAJOR)
	ln -sf libmooncake.so.$(SOMAJOR) $@

$(B)/mooncake.pc: mooncake.pc.in
	@mkdir -p $(@D)
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' \
		-e 's|@PRIVATE@|$(PKGS)|' $< > $@

# Tools and API tests see the public headers and the shared library only; $ORIGIN lets them run from the build tree.
RUNPATH = -Wl,-rpath,'$$ORIGIN/..' -Wl,-rpath,'$$ORIGIN/../..'

$(B)/bin/%: $(B)/tools/%.o $(TOOL_COMMON) $(B)/libmooncake.so
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $< $(TOOL_COMMON) -L$(B) -lmooncake $(RUNPATH) -ljansson -lpthread -lm

$(B)/bin/mooncake: $(patsubst %.c,$(B)/%.o,$(filter-out $(NO_TOOL),$(wildcard tools/mooncake/*.c))) $(TOOL_COMMON) $(B)/libmooncake.so
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $(filter %.o,$^) -L$(B) -lmooncake $(RUNPATH) -ljansson -lpthread -lm

# Unit tests look inside: static library. tests/unit/x.c is one cmocka program.
$(B)/tests/unit/%: tests/unit/%.c $(B)/libmooncake.a
	@mkdir -p $(@D)
	$(CC) $(LIB_CFLAGS) -Itests -MMD -MP -o $@ $< $(B)/libmooncake.a -lcmocka $(LIBS) -lm

# So does the simulation of a swarm.
$(B)/tests/bench/p2p_sim: tests/bench/p2p_sim.c $(B)/libmooncake.a
	@mkdir -p $(@D)
	$(CC) $(LIB_CFLAGS) -Itests -MMD -MP -o $@ $< $(B)/libmooncake.a $(LIBS) -lm

$(B)/tests/api/%: tests/api/%.c $(B)/libmooncake.so
	@mkdir -p $(@D)
	$(CC) $(TOOL_CFLAGS) -Itests -MMD -MP -o $@ $< -L$(B) -lmooncake -Wl,-rpath,'$$ORIGIN/../..' -lcmocka -ljansson -lpthread -lm

$(B)/tests/softnic/libibverbs.so.1: tests/softnic/verbs.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror $(CFLAGS) $(SAN) -fPIC -shared -pthread -Wl,-soname,libibverbs.so.1 -o $@ $<

$(B)/tests/bench/preload/%.so: tests/bench/preload/%.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror $(CFLAGS) -fPIC -shared -o $@ $<

# Examples are what a user would write: headers that are installed, no flags of ours.
$(B)/examples/%: examples/%.c uapi/linux/mooncake.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -Wall -Wextra -Iuapi -o $@ $<

# Tests of /dev/mooncake know the kernel's header alone; where one uses verbs it says so by its includes.
UAPI_CFLAGS = $(ALL_CFLAGS) -D_FILE_OFFSET_BITS=64 -Iuapi -Itests
UAPI_CC = $(CC) $(UAPI_CFLAGS) -MMD -MP -o $@ $< -lpthread $(if $(shell grep -lE '(infiniband/|")verbs.h' $<),-libverbs)
$(B)/tests/uapi/%: tests/uapi/%.c
	@mkdir -p $(@D)
	$(UAPI_CC)
$(B)/tests/vm/%: tests/vm/%.c
	@mkdir -p $(@D)
	$(UAPI_CC)

# A 32-bit process on a 64-bit kernel makes the same calls; and the header's layout is checked in all four ways.
$(B)/tests/uapi/%32: tests/uapi/%.c
	@mkdir -p $(@D)
	$(CC) -m32 $(UAPI_CFLAGS) -MMD -MP -MT $@ -o $@ $< -lpthread
$(B)/tests/uapi/layout: tests/uapi/layout.c tests/uapi/layout.h uapi/linux/mooncake.h
	@mkdir -p $(@D)
	$(CC) -m32 -Wall -Werror -Iuapi -fsyntax-only $<
	for bits in -m32 -m64; do $(CXX) -x c++ $$bits -Wall -Werror -Iuapi -fsyntax-only $< || exit 1; done
	$(CC) $(UAPI_CFLAGS) -o $@ $<

# A peer of another make: nothing of the library, and verbs linked as usual.
$(B)/tests/interop/classic_rdma_peer: tests/interop/classic_rdma_peer.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Itests -MMD -MP -o $@ $< -libverbs -ljansson -lpthread

$(B)/tests/%: tests/%.c $(B)/libmooncake.so
	@mkdir -p $(@D)
	$(CC) $(TOOL_CFLAGS) -Itests -MMD -MP -o $@ $< -L$(B) -lmooncake -Wl,-rpath,'$$ORIGIN/../..' -ljansson -lpthread -lm $(TEST_LIBS)
$(B)/tests/bench/registration: TEST_LIBS = -libverbs

# Fuzz targets: clang, libFuzzer, ASAN+UBSAN, the library compiled along so that it is instrumented too.
FUZZ_CC ?= clang
FUZZ_FLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
$(B)/fuzz/%: tests/fuzz/%.c FORCE_FUZZ_LIB
	@mkdir -p $(@D)
	$(FUZZ_CC) -std=gnu11 -D_GNU_SOURCE -g -O1 -Ilib -Ilib/include -Itests -I$(B) $(FUZZ_FLAGS) -fsanitize=fuzzer \
		-o $@ $< $(B)/fuzzlib/libmooncake.a $(LIBS) -lm
FORCE_FUZZ_LIB:
	@$(MAKE) --no-print-directory B=$(B)/fuzzlib CC=$(FUZZ_CC) CFLAGS="-O1 -g" SAN="$(FUZZ_FLAGS)" WARN="-Wall -Wextra" $(B)/fuzzlib/libmooncake.a
fuzz-build: $(FUZZ)

fuzz: fuzz-build ## each fuzz target: corpus, then FUZZ_SECONDS (5) seconds
	B=$(B) scripts/fuzz $(or $(FUZZ_SECONDS),5)

soak: ## each fuzz target for ten minutes under ASAN
	JOBS=$$(nproc) $(MAKE) fuzz FUZZ_SECONDS=600

check: check-style check-layers all tests ## build and run all tests on this machine
	B=$(B) scripts/run-tests unit api scripts

check-unit: $(UNIT) ## unit tests only
	B=$(B) scripts/run-tests unit
check-api: all $(API) ## API tests only
	B=$(B) scripts/run-tests api
check-scripts: all tests ## tests that start the tools
	B=$(B) scripts/run-tests scripts

ASAN_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
TSAN_FLAGS := -fsanitize=thread -fno-omit-frame-pointer
check-asan: ## unit and API tests under ASAN and UBSAN
	$(MAKE) B=build-asan SAN="$(ASAN_FLAGS)" CFLAGS="-O1 -g" all tests
	B=build-asan TEST_SECONDS=600 scripts/run-tests unit api
check-tsan: ## unit and API tests under TSAN
	$(MAKE) B=build-tsan SAN="$(TSAN_FLAGS)" CFLAGS="-O1 -g" all tests
	B=build-tsan TEST_SECONDS=600 scripts/run-tests unit api

check-layers: ## no room sees what it may not; exported symbols equal the map
	scripts/check-layers
check-style: ## formatting, shell scripts
	scripts/check-style
style: ## format the sources in place
	clang-format -i $$(git ls-files '*.c' '*.h')

check-builds: ## every component switched off, one at a time and all together
	scripts/check-builds $(COMPONENTS)

KVER ?= $(shell uname -r)
KDIR ?= /lib/modules/$(KVER)/build
kmod: ## the kernel module for KVER (this kernel) or for KDIR (a kernel's build folder)
	scripts/build-kmod $(KDIR) $(B)/kmod/$(KVER)

check-kmod: ## the module's sources under sparse, checkpatch and the compiler's extra warnings
	B=$(B) scripts/check-kmod

uapi-tests: $(UAPI) ## tests that run in guests

check-vm: all tests uapi-tests ## the module and RDMA in guests with kernels 6.1 and 6.12
	B=$(B) tests/vm/check 6.1 6.12
check-vm-dkms: all tests uapi-tests ## the module by DKMS on a bare Debian, alone
	B=$(B) tests/vm/host/dkms.sh
check-vm-matrix: all tests uapi-tests ## the same with 5.10 and the newest kernel that Debian serves
	B=$(B) tests/vm/check 5.10 7
check-vm-debug: all tests uapi-tests ## the same under KASAN, lockdep, kmemleak (VM_ARGS=-s: a short pass)
	B=$(B) tests/vm/check $(VM_ARGS) debug

bench: all tests ## ratios against plain sockets, iperf3, memcpy and process_vm_readv
	B=$(B) tests/bench/run
bench-vm: all tests ## rdma beside perftest, in a guest with soft-RoCE
	B=$(B) tests/bench/vm

# bash loads completion by the name of the command: one file, and a link to it for each other tool.
COMPLETIONS = $(PREFIX)/share/bash-completion/completions

install: all ## into $(PREFIX)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include/mooncake \
		$(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(COMPLETIONS)
	install -m 755 $(TOOLS) $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(B)/libmooncake.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)
	ln -sf libmooncake.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libmooncake.so.$(SOMAJOR)
	ln -sf libmooncake.so.$(SOMAJOR) $(DESTDIR)$(LIBDIR)/libmooncake.so
	install -m 644 $(B)/libmooncake.a $(DESTDIR)$(LIBDIR)
	install -m 644 lib/include/mooncake/*.h $(DESTDIR)$(PREFIX)/include/mooncake
	install -m 644 $(B)/mooncake.pc $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 scripts/completion.bash $(DESTDIR)$(COMPLETIONS)/mooncake
	for t in $(filter-out mooncake,$(notdir $(TOOLS))); do \
		ln -sf mooncake $(DESTDIR)$(COMPLETIONS)/$$t; done
	if [ -z "$(DESTDIR)" ]; then ldconfig; fi

install-dkms: ## the module's source into /usr/src, for dkms
	install -d $(DESTDIR)/usr/src/mooncake-$(VERSION)
	cp -r Kbuild dkms.conf kmod uapi LICENSE $(DESTDIR)/usr/src/mooncake-$(VERSION)

uninstall: ## what install put there
	rm -f $(patsubst $(B)/bin/%,$(DESTDIR)$(PREFIX)/bin/%,$(TOOLS)) $(DESTDIR)$(LIBDIR)/libmooncake.* \
		$(DESTDIR)$(LIBDIR)/pkgconfig/mooncake.pc $(patsubst $(B)/bin/%,$(DESTDIR)$(COMPLETIONS)/%,$(TOOLS)) \
		$(patsubst docs/man/%,$(DESTDIR)$(PREFIX)/share/man/man1/%,$(wildcard docs/man/*.1))
	rm -rf $(DESTDIR)$(PREFIX)/include/mooncake

deps: ## install what build and tests need (Debian)
	scripts/deps --test

clean: ## all build trees
	rm -rf $(B) build-asan build-tsan

-include $(shell find $(B) -path $(B)/vm -prune -o -name '*.d' -type f -print 2>/dev/null)
