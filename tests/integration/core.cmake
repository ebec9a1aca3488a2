# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# dwunw core and dwunw stack --core.
add_test(NAME integration.core_cli
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/core_cli.py" "$<TARGET_FILE:dwunw_tool>")
set_tests_properties(integration.core_cli PROPERTIES LABELS integration TIMEOUT 300)
