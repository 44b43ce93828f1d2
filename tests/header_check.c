/* SPDX-License-Identifier: MIT */
/*
 * The public headers as a user's program sees them: compiled as pedantic C11 and, through
 * header_check_cxx.cpp, as C++17.
 */
#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>
#include <doconv/doconv.h> /* twice: the guards hold */

#include <stdio.h>
#include <string.h>

int main(void)
{
    char header[64];
    doconv_conv_desc desc;
    doconv_context_options options;
    doconv_training_options training_options;
    doconv_tune_options tune_options;
    snprintf(header, sizeof header, "%d.%d.%d", DOCONV_VERSION_MAJOR, DOCONV_VERSION_MINOR,
             DOCONV_VERSION_PATCH);
    memset(&options, 0, sizeof options);
    memset(&training_options, 0, sizeof training_options);
    memset(&tune_options, 0, sizeof tune_options);
    options.size = sizeof options;
    training_options.size = sizeof training_options;
    tune_options.size = sizeof tune_options;
    if (strcmp(header, doconv_version_string()) != 0) {
        printf("the header is version %s, the library %s\n", header, doconv_version_string());
        return 1;
    }
    if (doconv_conv_desc_init(&desc) != DOCONV_OK || desc.size != sizeof desc) {
        printf("doconv_conv_desc has %lu bytes here and %lu in the library\n",
               (unsigned long)sizeof desc, (unsigned long)desc.size);
        return 1;
    }
    doconv_context *context = NULL;
    if (doconv_context_create(&options, &context) != DOCONV_OK) {
        printf("doconv_context_create fails\n");
        return 1;
    }
    /* A training or tuning function each, by its name in C. */
    doconv_training *training = NULL;
    if (doconv_training_create(context, &desc, &training_options, &training) != DOCONV_OK) {
        printf("doconv_training_create fails\n");
        return 1;
    }
    doconv_training_destroy(training);
    doconv_tune_report_destroy(NULL);
    doconv_context_destroy(context);
    printf("doconv %s\n", header);
    return 0;
}
