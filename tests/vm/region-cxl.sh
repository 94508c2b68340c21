#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# REGION_CXL of persistent CXL memory, by its dax device: pinned, copied, exported, and what was written is read back.
# vm: alone
set -u
. "$(dirname "$0")/lib/guest.sh"
dax=$(vm_cxl_dax) || exit
export MOONCAKE_DAX=$dax
"$B/tests/uapi/region_cxl" test_a_mapped_dax_device_is_pinned test_a_dax_device_holds_what_copy_wrote \
	test_a_dax_device_needs_no_capability
